"""Old telemetry is deleted once its time is over."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from pingup.clock import Clock
from pingup.errors import Unavailable
from pingup.ports import TelemetryStore
from pingup.services.ledger import Ledger

log = logging.getLogger(__name__)

_FIRST, _EVERY = 60.0, 3600.0  # seconds; not at the start, when everybody reconnects
_DAY = timedelta(days=1)


class Retention:
    """Deletes samples and scans that are older than they may become, and forgets streams that have ended."""

    def __init__(
        self, telemetry: TelemetryStore, ledger: Ledger, clock: Clock, *, samples: timedelta, scans: timedelta
    ) -> None:
        self._telemetry = telemetry
        self._ledger = ledger
        self._clock = clock
        self._samples = samples
        self._scans = scans

    async def run(self) -> None:
        """Delete once an hour, until cancelled."""
        await asyncio.sleep(_FIRST)
        while True:
            try:
                await self.sweep()
            except Unavailable as problem:
                log.warning("old telemetry is deleted later: %s", problem)
            await asyncio.sleep(_EVERY)

    async def sweep(self) -> None:
        """Delete what is too old now.

        A clock that was set far ahead must not delete everything, so no later day counts than the one after
        the newest sample or scan.
        """
        newest = await self._telemetry.newest()
        if newest is not None:
            today = min(self._clock.now(), newest + _DAY)
            samples_before, scans_before = today - self._samples, today - self._scans
            await self._telemetry.forget(samples_before, scans_before)
            self._ledger.forget_untouched(min(samples_before, scans_before))
