"""Who may make a call: everybody, an operator whose token reaches far enough, the agent that it is about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import hdrs, web

from pingup.errors import Forbidden, NotFound, Unauthenticated
from pingup.http.context import CONTEXT, PRINCIPAL
from pingup.model import Principal, Role, Scope
from pingup.topics import is_agent_id

AGENT_ID = "agent_id"  # the name of the part of a path that says which agent a call is about

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access(msgspec.Struct, frozen=True):
    """Who may call: `anybody`, operators from `scope` upwards, agents where it is about themselves."""

    anybody: bool = False
    scope: Scope | None = None
    agent: bool = False


ANYBODY = Access(anybody=True)
READ = Access(scope=Scope.READ)
COMMAND = Access(scope=Scope.COMMAND)
ADMIN = Access(scope=Scope.ADMIN)
THAT_AGENT = Access(agent=True)
THAT_AGENT_OR_READ = Access(scope=Scope.READ, agent=True)


class Route(msgspec.Struct, frozen=True):
    """One call: its method, its path, who may make it and who answers it."""

    method: str
    path: str
    access: Access
    handle: Handle


def guarded(route: Route) -> Handle:
    """The route's handler behind its access; it finds the caller under `PRINCIPAL`."""
    if route.access.anybody:
        return route.handle

    async def handle(request: web.Request) -> web.StreamResponse:
        principal = _authenticate(request)
        _authorise(request, principal, route.access)
        request[PRINCIPAL] = principal
        return await route.handle(request)

    return handle


def _authenticate(request: web.Request) -> Principal:
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("this call needs the header `Authorization: Bearer <token>`")
    principal = request.app[CONTEXT].keyring.who_is(token.strip())
    if principal is None:
        raise Unauthenticated("nobody has this bearer token, or it has expired or was revoked")
    return principal


def _authorise(request: web.Request, principal: Principal, access: Access) -> None:
    agent_id = request.match_info.get(AGENT_ID)
    if principal.role is Role.AGENT:
        _check_agent(principal, access, agent_id)
    else:
        _check_operator(principal, access)
    if agent_id is not None and not is_agent_id(agent_id):
        raise NotFound(f"there can be no agent {agent_id!r}")


def _check_agent(principal: Principal, access: Access, agent_id: str | None) -> None:
    if not access.agent:
        raise Forbidden("this call is not for agents")
    if agent_id is not None and agent_id != principal.id:
        raise Forbidden(f"agent {principal.id} may only ask about itself")


def _check_operator(principal: Principal, access: Access) -> None:
    if access.scope is None:
        raise Forbidden("only the agent itself may make this call, with its own token")
    if principal.scope < access.scope:
        needed, given = access.scope.name.lower(), principal.scope.name.lower()
        raise Forbidden(f"this call needs a token of the scope {needed}, this one has {given}")
