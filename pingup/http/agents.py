"""Agents: registered, listed, changed, removed, and their heartbeats."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET, Meta, UnsetType

from pingup.http import bodies, cursors, query
from pingup.http.access import AGENT_ID
from pingup.http.context import CONTEXT
from pingup.http.problems import answer
from pingup.model import Presence
from pingup.services.agents import Registration

Name = Annotated[str, Meta(max_length=128)]
Tags = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=64)]


class NewAgent(msgspec.Struct, frozen=True, rename="camel"):
    """The body of a registration."""

    id: str
    name: Name | None = None
    metadata: dict[str, Any] = {}
    tags: Tags = ()
    secret: str | None = None
    public_key: str | None = None


class AgentChange(msgspec.Struct, frozen=True, rename="camel"):
    """The body of a change: only what is given is changed."""

    name: Name | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET


async def page(request: web.Request) -> web.StreamResponse:
    """Agents by id."""
    limit = query.limit_of(request)
    cursor = request.query.get("cursor")
    found = await request.app[CONTEXT].agents.page(
        status=query.choice(request, "status", Presence),
        tag=request.query.get("tag"),
        query=request.query.get("q"),
        limit=limit + 1,
        after=None if cursor is None else cursors.read(request.path, cursor, str),
    )
    agents = found[:limit]
    following = cursors.make(request.path, agents[-1].id) if len(found) > limit else None
    return answer({"agents": agents, "next": following})


async def get(request: web.Request) -> web.StreamResponse:
    agent = await request.app[CONTEXT].agents.get(request.match_info[AGENT_ID])
    return answer({"agent": agent})


async def post(request: web.Request) -> web.StreamResponse:
    """Register an agent; its credentials are shown this once."""
    new = await bodies.read_as(request, NewAgent)
    agent, credentials = await request.app[CONTEXT].agents.register(
        Registration(
            id=new.id,
            name=new.name,
            metadata=new.metadata,
            tags=new.tags,
            secret=new.secret,
            public_key=new.public_key,
        )
    )
    return answer(
        {"agent": agent, "credentials": credentials},
        HTTPStatus.CREATED,
        {hdrs.LOCATION: f"/api/v1/agents/{agent.id}"},
    )


async def patch(request: web.Request) -> web.StreamResponse:
    change = await bodies.read_as(request, AgentChange)
    agent = await request.app[CONTEXT].agents.change(
        request.match_info[AGENT_ID],
        name=None if change.name is UNSET else change.name,
        metadata=None if change.metadata is UNSET else change.metadata,
        tags=None if change.tags is UNSET else change.tags,
    )
    return answer({"agent": agent})


async def delete(request: web.Request) -> web.StreamResponse:
    """Remove an agent; with `?purge=true` its telemetry too."""
    purge = query.flag(request, "purge")
    await request.app[CONTEXT].agents.remove(request.match_info[AGENT_ID], purge=purge)
    return answer({"success": True})


async def heartbeat(request: web.Request) -> web.StreamResponse:
    """An agent says that it is there, and learns whether commands wait for it."""
    context = request.app[CONTEXT]
    agent_id = request.match_info[AGENT_ID]
    await context.agents.heartbeat(agent_id)
    waiting = await context.commands.pending(agent_id, fetched=False)
    return answer({"success": True, "pendingCommands": len(waiting)})
