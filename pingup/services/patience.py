"""How long a caller waits for the end of its message."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from pingup.errors import Unavailable
from pingup.model import Outcome


class Patience:
    """Fails futures with `Unavailable` that are not done in time.

    All of them wait equally long, so that they run out in the order in which they came, and one timer does
    for all: one for each message costs as much as verifying and decoding it.
    """

    def __init__(self, why: Callable[[], str]) -> None:
        """`why` says, when a future runs out, what it was waiting for."""
        self._why = why
        self._waiting: deque[tuple[float, asyncio.Future[Outcome]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, future: asyncio.Future[Outcome], seconds: float) -> None:
        """Have the future done within so many seconds from now, one way or the other."""
        loop = future.get_loop()
        self._forget_done()
        self._waiting.append((loop.time() + seconds, future))
        if self._timer is None:
            self._timer = loop.call_later(seconds, self._run_out, loop)

    def _forget_done(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()

    def _run_out(self, loop: asyncio.AbstractEventLoop) -> None:
        self._forget_done()
        while self._waiting and self._waiting[0][0] <= loop.time():
            _, future = self._waiting.popleft()
            future.set_exception(Unavailable(self._why()))
            future.exception()  # whoever waited may have gone
            self._forget_done()
        self._timer = None
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self._run_out, loop)
