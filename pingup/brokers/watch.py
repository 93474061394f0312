"""The two clocks that run against a connection: the client's keep-alive time and its token's lifetime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from pingup.clock import Clock

# A client may be silent for 1.5 of its keep-alive times (MQTT 3.1.1, section 3.1.2.10). The last tenth is for
# its will, which has to be published by then.
PATIENCE = 1.4


class Watch:
    """Calls when a client has been silent for too long, and when its time is over."""

    def __init__(
        self,
        *,
        keep_alive: int,
        expires_at: datetime | None,
        clock: Clock,
        silent: Callable[[], None],
        expired: Callable[[], None],
    ) -> None:
        """`keep_alive` is seconds, 0 for no limit."""
        self._loop = asyncio.get_running_loop()
        self._patience = keep_alive * PATIENCE
        self._expires_at = expires_at
        self._clock = clock
        self._silent = silent
        self._expired = expired
        self._quiet_since: float | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        if self._patience:
            self._check_silence()
        self._check_expiry()

    def listen(self) -> None:
        """From now on the client is expected to say something."""
        self._quiet_since = self._loop.time()

    def heard(self) -> None:
        """It did. While we are busy, and don't listen, nobody is called silent."""
        self._quiet_since = None

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def _check_silence(self) -> None:
        now = self._loop.time()
        deadline = self._patience + (now if self._quiet_since is None else self._quiet_since)
        if deadline <= now:
            self._silent()
        else:
            self._timers["silence"] = self._loop.call_at(deadline, self._check_silence)

    def _check_expiry(self) -> None:
        if self._expires_at is None:
            return
        left = (self._expires_at - self._clock.now()).total_seconds()
        if left <= 0:
            self._expired()
        else:
            self._timers["expiry"] = self._loop.call_later(left, self._check_expiry)
