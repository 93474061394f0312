"""Scans of the network: on command, and every so often when the settings say so."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from pingup.agent import messages
from pingup.agent.identity import Identity
from pingup.agent.outbox import Outbox
from pingup.agent.scan import Plan, check_ranges, scan
from pingup.agent.tuning import Tuner
from pingup.clock import Clock
from pingup.codec import MAX_BULK_BYTES
from pingup.model import Scan
from pingup.topics import Kind

_log = logging.getLogger(__name__)


class Discovery:
    """Scans, one at a time, and queues what was found for the server."""

    def __init__(self, identity: Identity, outbox: Outbox, tuner: Tuner, clock: Clock) -> None:
        self._identity = identity
        self._outbox = outbox
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
            found = await scan(self._identity.agent_id, self._clock.now(), plan)
        message, left_out = self._fit(found)
        if left_out:
            _log.warning("the scan found more than fits into a message: %d hosts are left out", left_out)
        self._outbox.put(Kind.DISCOVERY, message)
        return found

    def _fit(self, found: Scan) -> tuple[bytes, int]:
        """The signed message, and how many hosts had to be left out of it.

        A scan split in two would look to the server like two networks, the second without the first one's
        hosts; so it is cut, always at the same end, the highest addresses.
        """
        hosts = found.hosts
        message = self._identity.sign(messages.discovery(found))
        while len(message) > MAX_BULK_BYTES:
            hosts = hosts[: len(hosts) * 9 // 10]
            message = self._identity.sign(messages.discovery(msgspec.structs.replace(found, hosts=hosts)))
        return message, len(found.hosts) - len(hosts)
