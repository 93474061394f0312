"""What is asked of stored telemetry."""

from __future__ import annotations

from datetime import datetime

from pingup.errors import NotFound
from pingup.model import Order, Presence, Sample, Scan, Span
from pingup.ports import TelemetryStore
from pingup.rollups import Bucket, Rollup
from pingup.services.agents import Agents
from pingup.services.gaps import StreamState, completeness, state_of
from pingup.services.keyring import Keyring
from pingup.services.ledger import Ledger

MAX_FLEET = 10_000


class History:
    """Reads samples and scans, and tells what is missing.

    An id that is neither registered nor has telemetry is `NotFound`.
    """

    def __init__(self, telemetry: TelemetryStore, ledger: Ledger, agents: Agents, keyring: Keyring) -> None:
        self._telemetry = telemetry
        self._ledger = ledger
        self._agents = agents
        self._keyring = keyring

    async def samples(self, agent_id: str, span: Span) -> list[Sample]:
        """A page of an agent's samples."""
        found = await self._telemetry.samples(agent_id, span)
        if not found:
            await self._check_known(agent_id)
        return found

    async def buckets(self, agent_id: str, rollup: Rollup) -> list[Bucket]:
        """A page of an agent's samples rolled up."""
        found = await self._telemetry.buckets(agent_id, rollup)
        if not found:
            await self._check_known(agent_id)
        return found

    def completeness(self, agent_id: str, start: datetime | None, end: datetime | None) -> float | None:
        """How much of what an agent has numbered in a stretch of time is stored, in percent.

        None when it does not number its messages. See `pingup.services.gaps`.
        """
        streams = self._ledger.streams(agent_id)
        return completeness(streams, start, end) if streams else None

    async def gaps(self, agent_id: str, limit: int) -> list[StreamState]:
        """An agent's streams, the one heard of last first, each with at most `limit` gaps."""
        streams = self._ledger.streams(agent_id)
        if not streams:
            await self._check_known(agent_id)
        return [state_of(stream, limit) for stream in streams]

    async def newest_samples(self, *, status: Presence | None, tag: str | None) -> list[Sample]:
        """The newest sample of each agent, or of the agents with this status and tag."""
        if status is None and tag is None:
            found = await self._telemetry.newest_samples()
            return [sample for sample in found if self._keyring.key_of(sample.agent_id) is not None]
        agents = await self._agents.page(status=status, tag=tag, query=None, limit=MAX_FLEET, after=None)
        return await self._telemetry.newest_samples([agent.id for agent in agents])

    async def scans(self, agent_id: str, span: Span) -> list[Scan]:
        """A page of an agent's scans."""
        found = await self._telemetry.scans(agent_id, span)
        if not found:
            await self._check_known(agent_id)
        return found

    async def newest_scan(self, agent_id: str) -> Scan | None:
        """An agent's newest scan, if it has made one."""
        found = await self.scans(agent_id, Span(limit=1, order=Order.DESC))
        return found[0] if found else None

    async def _check_known(self, agent_id: str) -> None:
        if self._keyring.key_of(agent_id) is None and not await self._telemetry.has(agent_id):
            raise NotFound(f"there is no agent {agent_id}, and no telemetry of one")
