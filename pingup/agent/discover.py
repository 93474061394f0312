"""Scans of the network: on command, and every so often when the settings say so."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from pingup.agent import messages
from pingup.agent.scan import Plan, check_ranges, scan
from pingup.agent.spool import Spool
from pingup.agent.tuning import Tuner
from pingup.clock import Clock
from pingup.codec import MAX_BULK_BYTES
from pingup.model import Scan
from pingup.topics import Kind

_log = logging.getLogger(__name__)


class Discovery:
    """Scans, one at a time, and queues what was found for the server."""

    def __init__(self, agent_id: str, spool: Spool, tuner: Tuner, clock: Clock) -> None:
        self._agent_id = agent_id
        self._spool = spool
        self._tuner = tuner
        self._clock = clock
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Scan as often as the settings say, until cancelled."""
        while True:
            tuning = self._tuner.current.scan
            if tuning.interval is not None and tuning.ranges:
                try:
                    await self.scan(check_ranges(tuning.ranges, tuning.ports, tuning.ranges))
                except OSError as problem:
                    _log.error("the scan has failed: %s", problem)
            await self._tuner.hold(lambda current: current.scan, tuning, tuning.interval)

    async def scan(self, plan: Plan) -> Scan:
        """Carry out a plan and queue what was found.

        Raises:
            OSError: this machine has no socket left.
        """
        async with self._turn:
            found = await scan(self._agent_id, self._clock.now(), plan)
        body, left_out = _fit(found)
        if left_out:
            _log.warning("the scan found more than fits into a message: %d hosts are left out", left_out)
        self._spool.put(Kind.DISCOVERY, body)
        return found


def _fit(found: Scan) -> tuple[bytes, int]:
    """The message, and how many hosts had to be left out of it.

    A scan split in two would look to the server like two networks, the second without the first one's
    hosts; so it is cut, always at the same end, the highest addresses.
    """
    hosts = found.hosts
    body = messages.discovery(found)
    while len(body) > MAX_BULK_BYTES - messages.OVERHEAD:
        hosts = hosts[: len(hosts) * 9 // 10]
        body = messages.discovery(msgspec.structs.replace(found, hosts=hosts))
    return body, len(found.hosts) - len(hosts)
