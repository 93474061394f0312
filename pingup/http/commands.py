"""Commands: made by operators, fetched and answered by agents."""

from __future__ import annotations

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET, Meta, UnsetType

from pingup import codec, signing
from pingup.errors import Forbidden, Invalid, Rejected
from pingup.http import bodies, cursors, query, uplink
from pingup.http.access import AGENT_ID
from pingup.http.context import CONTEXT, PRINCIPAL
from pingup.http.problems import answer
from pingup.model import Command, CommandReport, CommandStatus, Role, StatusChange
from pingup.services.agents import ID_RULE
from pingup.services.commands import DEFAULT_TTL, check_ttl
from pingup.settings import parse_duration
from pingup.topics import Kind, is_agent_id


class NewCommand(msgspec.Struct, frozen=True, rename="camel"):
    """The body of a new command; `ttl` is a duration like `1h`, or seconds."""

    agent_id: str
    action: Annotated[str, Meta(min_length=1, max_length=64)]
    params: dict[str, Any] = {}
    ttl: str | float | UnsetType = UNSET


class UnsignedResult(msgspec.Struct, frozen=True, rename="camel"):
    """The body of a result without a signature, as the specification's first agents send it."""

    status: Literal["acknowledged", "running", "completed", "failed", "rejected"]
    result: msgspec.Raw | UnsetType = UNSET
    agent_id: str | UnsetType = UNSET
    command_id: str | UnsetType = UNSET


class ShownCommand(msgspec.Struct, frozen=True, rename="camel"):
    """A command as operators see it; a list has no histories."""

    command_id: str
    agent_id: str
    action: str
    params: dict[str, Any]
    status: CommandStatus
    result: msgspec.Raw
    created_at: datetime
    expires_at: datetime
    history: tuple[StatusChange, ...] | UnsetType = UNSET


class WaitingCommand(msgspec.Struct, frozen=True, rename="camel"):
    """A command as its agent fetches it: `signed` is the exact text under `signature`."""

    command_id: str
    action: str
    params: dict[str, Any]
    status: CommandStatus
    created_at: datetime
    expires_at: datetime
    issued_at: datetime
    signature: str
    signed: str


# --- for operators ---------------------------------------------------------------------------------


async def page(request: web.Request) -> web.StreamResponse:
    """Commands, newest first."""
    limit = query.limit_of(request)
    cursor = request.query.get("cursor")
    found = await request.app[CONTEXT].commands.page(
        agent_id=query.agent_id_of(request),
        status=query.choice(request, "status", CommandStatus),
        limit=limit + 1,
        after=None if cursor is None else _read_place(request, cursor),
    )
    commands = found[:limit]
    following = None
    if len(found) > limit:
        last = commands[-1]
        following = cursors.make(request.path, (cursors.micros(last.created_at), last.command_id))
    return answer({"commands": [_shown(command) for command in commands], "next": following})


async def get(request: web.Request) -> web.StreamResponse:
    command = await request.app[CONTEXT].commands.get(request.match_info["command_id"])
    return answer({"command": _shown(command)})


async def post(request: web.Request) -> web.StreamResponse:
    """Make a command; it is stored when this is answered, and sent as soon as the agent can be reached."""
    new = await bodies.read_as(request, NewCommand)
    if not is_agent_id(new.agent_id):
        raise Invalid("bad agentId", {"agentId": ID_RULE})
    ttl = check_ttl(_read_ttl(new.ttl))
    command = await request.app[CONTEXT].commands.create(new.agent_id, new.action, new.params, ttl)
    location = {hdrs.LOCATION: f"/api/v1/commands/{command.command_id}"}
    return answer({"command": _shown(command)}, HTTPStatus.CREATED, location)


async def cancel(request: web.Request) -> web.StreamResponse:
    command = await request.app[CONTEXT].commands.cancel(request.match_info["command_id"])
    return answer({"command": _shown(command)})


def _read_place(request: web.Request, cursor: str) -> tuple[datetime, str]:
    created_at, command_id = cursors.read(request.path, cursor, tuple[cursors.Micros, str])
    return cursors.moment(created_at), command_id


def _read_ttl(ttl: str | float | UnsetType) -> timedelta:
    if ttl is UNSET:
        return DEFAULT_TTL
    try:
        return parse_duration(ttl) if isinstance(ttl, str) else timedelta(seconds=ttl)
    except (ValueError, OverflowError) as problem:
        raise Invalid("bad ttl", {"ttl": "a duration like 90s, 5m or 1h, or seconds"}) from problem


def _shown(command: Command) -> ShownCommand:
    return ShownCommand(
        command.command_id,
        command.agent_id,
        command.action,
        command.params,
        command.status,
        command.result,
        command.created_at,
        command.expires_at,
        command.history or UNSET,
    )


# --- for agents ------------------------------------------------------------------------------------


async def pending(request: web.Request) -> web.StreamResponse:
    """What waits for an agent, oldest first. Fetched by the agent itself, it counts as sent."""
    context = request.app[CONTEXT]
    agent = await context.agents.get(request.match_info[AGENT_ID])
    fetched = request[PRINCIPAL].role is Role.AGENT
    waiting = await context.commands.pending(agent.id, fetched=fetched)
    return answer({"commands": [_waiting(command) for command in waiting]})


async def result(request: web.Request) -> web.StreamResponse:
    """Take what an agent says of a command: a signed message, about the command that the path names."""
    context = request.app[CONTEXT]
    payload = await bodies.read(request, uplink.MAX_MESSAGE_BYTES)
    command_id = request.match_info["command_id"]
    if context.unsigned_results and not _is_signed(payload):
        report = _read_unsigned(request, payload, command_id)
        await context.commands.report(report)
        await context.agents.heartbeat(report.agent_id)
    else:
        message = uplink.inbound(request, Kind.RESULTS, payload)
        await context.ingest.receive(msgspec.structs.replace(message, command_id=command_id))
    return answer({"success": True})


def _waiting(command: Command) -> WaitingCommand:
    return WaitingCommand(
        command.command_id,
        command.action,
        command.params,
        command.status,
        command.created_at,
        command.expires_at,
        command.created_at,
        command.signature,
        command.signed,
    )


def _is_signed(payload: bytes) -> bool:
    try:
        signing.cut(payload)
    except Rejected:
        return False
    return True


def _read_unsigned(request: web.Request, payload: bytes, command_id: str) -> CommandReport:
    codec.check_size(Kind.RESULTS, payload)
    body = bodies.decode(payload, UnsignedResult)
    principal = request[PRINCIPAL]
    if body.agent_id not in (UNSET, principal.id):
        raise Forbidden(f"the result says agentId {body.agent_id!r}, it came from {principal.id}")
    if body.command_id not in (UNSET, command_id):
        raise _other_command(command_id)
    text = None if body.result is UNSET else bytes(body.result).decode()
    now = request.app[CONTEXT].clock.now()
    return CommandReport(principal.id, now, command_id, CommandStatus(body.status), text)


def _other_command(command_id: str) -> Invalid:
    return Invalid("this is the result of another command", {"commandId": f"must be {command_id}"})
