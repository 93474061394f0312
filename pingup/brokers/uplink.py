"""The way of what agents publish: from a PUBLISH to the server's ingest."""

from __future__ import annotations

import asyncio

from pingup.access import may_publish
from pingup.brokers.edge import Edge
from pingup.brokers.framing import Publish
from pingup.clock import Clock
from pingup.errors import Reason
from pingup.model import Inbound, Outcome, Principal, Role
from pingup.topics import Kind, parse_up

_SHOWN = 256  # characters of a topic that is refused


class Uplink:
    """Takes in what may be published, and counts what may not."""

    def __init__(self, edge: Edge, clock: Clock) -> None:
        self.on_listening = edge.on_listening
        """Told the id of each agent that gets its commands from now on."""
        self._ingest = edge.ingest
        self._rejects = edge.rejects
        self._clock = clock

    def kind_of(self, principal: Principal, publish: Publish) -> Kind | None:
        """What a message is that may be published; None when it may not, and that is counted."""
        if not may_publish(principal, publish.topic):
            self._refuse(principal, publish, Reason.NOT_ALLOWED, "may not publish on this topic")
            return None
        named = parse_up(publish.topic)
        if named is None:
            self._refuse(principal, publish, Reason.UNKNOWN_KIND, "there is no such kind of message")
            return None
        return named[1]

    async def bring(self, principal: Principal, publish: Publish) -> asyncio.Future[Outcome] | None:
        """Hand a message in, as soon as there is room; None when it is not permitted, and dropped."""
        kind = self.kind_of(principal, publish)
        if kind is None:
            return None
        await self._ingest.room()
        inbound = Inbound(kind, principal.id, publish.payload, self._clock.now(), publish.topic)
        return self._ingest.submit(inbound)

    def _refuse(self, principal: Principal, publish: Publish, reason: Reason, detail: str) -> None:
        agent_id = principal.id if principal.role is Role.AGENT else None
        self._rejects.note(agent_id=agent_id, source=publish.topic[:_SHOWN], reason=reason, detail=detail)
