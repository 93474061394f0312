"""What every broker link needs of the server, and what it is for the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from pingup.errors import Reason
from pingup.model import Inbound, Outcome
from pingup.ports import Downlink


class Ingest(Protocol):
    """Where messages go in; `pingup.services.ingest` is one."""

    @property
    def has_room(self) -> bool:
        """Whether the server can take more at the moment."""
        ...

    async def room(self) -> None:
        """Wait while the server can take no more."""
        ...

    def take(self, inbound: Inbound) -> asyncio.Future[Any] | None:
        """Telemetry of which the outcome doesn't matter; resolves once it is committed or refused.

        None: it is refused already. It fails with Unavailable when it wasn't stored. Others share it.
        """
        ...

    def submit(self, inbound: Inbound) -> asyncio.Future[Outcome]:
        """Resolves after the commit; fails with Rejected (counted), or Unavailable when it wasn't stored."""
        ...


class Rejects(Protocol):
    """Who counts refusals; `pingup.services.rejects` is one."""

    def note(self, *, agent_id: str | None, source: str, reason: Reason, detail: str) -> None: ...


async def _at_once() -> None:
    """There is nothing to wait for."""


class Edge(msgspec.Struct, frozen=True):
    """The server, seen from a broker.

    `on_listening` is told the id of each agent that gets its commands from now on; `on_connected` each time
    that the link to a broker is there (again), which may have forgotten what it retained. `status` makes what
    is retained on `sys/status`: the server's birth, its goodbye and its will. `may_connect` is waited
    for before the first connection to a broker elsewhere: there the server needs an account like anybody.
    """

    ingest: Ingest
    rejects: Rejects
    on_listening: Callable[[str], None]
    on_connected: Callable[[], None]
    status: Callable[[str], bytes]
    may_connect: Callable[[], Awaitable[None]] = _at_once


ONLINE, OFFLINE = "online", "offline"


class Broker(Downlink, Protocol):
    """A broker in this process, or the link to one elsewhere."""

    @property
    def url(self) -> str:
        """What clients call it by, without credentials."""
        ...

    @property
    def problem(self) -> str | None:
        """Why nothing comes or goes at the moment, in plain words; None when all is well."""
        ...

    def open(self, edge: Edge) -> AbstractAsyncContextManager[None]:
        """Bring messages to the edge for as long as the context lasts.

        At its end nothing more is read, and what was offered is acknowledged as soon as it is committed.

        Raises:
            Unusable: it can't work as it is configured.
        """
        ...
