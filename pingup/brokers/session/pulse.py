"""Keep-alive, both ways: the broker hears from us, and is given up when we don't hear from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_PATIENCE = 1.5  # keep-alive times, as the broker has with us (MQTT 5, section 3.1.2.10)


class Pulse:
    """Pings twice in a keep-alive time, whatever else is sent, so that a living peer is never silent."""

    def __init__(self, *, ping: Callable[[], None], silent: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ping = ping
        self._silent = silent
        self._keep_alive = 0
        self._heard_at = 0.0
        self._is_listening = True
        self._timer: asyncio.TimerHandle | None = None

    def start(self, keep_alive: int) -> None:
        """`keep_alive` is in seconds, 0 for no limit either way."""
        self._keep_alive = keep_alive
        self.heard()
        if keep_alive:
            self._wait()

    def heard(self) -> None:
        """Something came."""
        self._heard_at = self._loop.time()

    def listen(self, is_listening: bool) -> None:
        """Whether we read at all; nobody is called silent while we don't."""
        if is_listening and not self._is_listening:
            self.heard()
        self._is_listening = is_listening

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        interval = self._keep_alive / 2
        left = self._heard_at + self._keep_alive * _PATIENCE - self._loop.time()
        if self._is_listening:
            interval = max(0.0, min(interval, left))
        self._timer = self._loop.call_later(interval, self._beat)

    def _beat(self) -> None:
        silence = self._loop.time() - self._heard_at
        if self._is_listening and silence >= self._keep_alive * _PATIENCE:
            self._silent()
            return
        self._ping()
        self._wait()
