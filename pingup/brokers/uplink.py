"""The way of what agents publish: from a PUBLISH to the server's ingest."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from pingup.access import may_publish
from pingup.brokers.edge import Edge
from pingup.brokers.framing import Publish
from pingup.errors import Reason
from pingup.model import Inbound, Principal, Role
from pingup.topics import Kind, parse_up

Verdict = asyncio.Future[Any]
"""Resolves when a message is committed; fails with `Rejected` when it is refused, else with `Unavailable`."""

_SHOWN = 256  # characters of a topic that is refused


class Uplink:
    """Takes in what may be published, and counts what may not."""

    def __init__(self, edge: Edge) -> None:
        self.on_listening = edge.on_listening
        """Told the id of each agent that gets its commands from now on."""
        self._ingest = edge.ingest
        self._rejects = edge.rejects

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

    @property
    def has_room(self) -> bool:
        """Whether the server can take more at the moment."""
        return self._ingest.has_room

    async def room(self) -> None:
        """Wait while the server can take no more."""
        await self._ingest.room()

    def submit(self, principal: Principal, kind: Kind, publish: Publish, at: datetime) -> Verdict:
        """Hand a permitted message in that was received at this moment."""
        return self._ingest.submit(Inbound(kind, principal.id, publish.payload, at, publish.topic))

    def take(self, principal: Principal, kind: Kind, publish: Publish, at: datetime) -> Verdict | None:
        """The same for telemetry, with a verdict that is shared; None when it is refused already."""
        return self._ingest.take(Inbound(kind, principal.id, publish.payload, at, publish.topic))

    def _refuse(self, principal: Principal, publish: Publish, reason: Reason, detail: str) -> None:
        agent_id = principal.id if principal.role is Role.AGENT else None
        self._rejects.note(agent_id=agent_id, source=publish.topic[:_SHOWN], reason=reason, detail=detail)
