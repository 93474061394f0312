"""Whether the server's own clock can be right: it cannot be earlier than what was received by it.

A sample was stored only if it was not too far ahead of the clock then. So a clock that is further than that
behind the newest stored sample has been set back, or starts before it was set. The whole fleet would seem to
come from the future; it must wait instead of being refused.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from pingup.clock import Clock

_LOOK_EVERY = 1.0  # seconds


class Timekeeper:
    """Compares the clock with the newest moment that was stored."""

    def __init__(self, clock: Clock, tolerance: timedelta) -> None:
        """`tolerance` is how far ahead of the clock a message may be."""
        self._clock = clock
        self._tolerance = tolerance
        self._newest: datetime | None = None

    def witness(self, moment: datetime) -> None:
        """Something of this moment is stored."""
        if self._newest is None or moment > self._newest:
            self._newest = moment

    @property
    def problem(self) -> str | None:
        """What is wrong with the clock in words, or None."""
        if self._newest is None:
            return None
        behind = self._newest - self._tolerance - self._clock.now()
        if behind <= timedelta():
            return None
        lag = f"{behind.total_seconds():,.0f} s"
        return f"the server's clock is {lag} or more behind what it has received; nothing is taken until then"

    async def right(self) -> None:
        """Wait until the clock can be right."""
        while self.problem is not None:  # noqa: ASYNC110 - nothing tells of a clock that was set
            await asyncio.sleep(_LOOK_EVERY)
