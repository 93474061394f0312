"""Telemetry that has grown cold is sorted, so that histories of one agent are read fast."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from pingup.clock import Clock
from pingup.errors import Unavailable
from pingup.ports import TelemetryStore

log = logging.getLogger(__name__)

_FIRST, _EVERY = 120.0, 600.0  # seconds; not at the start, when everybody reconnects
_GRACE = timedelta(hours=1)  # after a stretch has ended; most of what comes late has come then
# Of the time that it could take; the rest is for others.
_SHARE = 0.2
_LEAST_PAUSE = 1.0  # seconds


class Sorting:
    """Has stretches of time sorted once they have ended, one after the other, with pauses between them."""

    def __init__(self, telemetry: TelemetryStore, clock: Clock) -> None:
        self._telemetry = telemetry
        self._clock = clock

    async def run(self) -> None:
        """Sort until cancelled."""
        pause = _FIRST
        while True:
            await asyncio.sleep(pause)
            try:
                pause = await self.step()
            except Unavailable as problem:
                log.warning("telemetry is sorted later: %s", problem)
                pause = _EVERY

    async def step(self) -> float:
        """Sort one stretch if there is one; how many seconds to wait before the next."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        if not await self._telemetry.sort(self._clock.now() - _GRACE):
            return _EVERY
        return max(_LEAST_PAUSE, (loop.time() - begin) * (1 / _SHARE - 1))
