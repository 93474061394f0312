"""API tokens: made and shown once, listed, revoked."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Literal

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from pingup.errors import Invalid
from pingup.http import bodies
from pingup.http.context import CONTEXT
from pingup.http.problems import answer
from pingup.http.query import Moment
from pingup.model import ApiToken, Scope


class NewToken(msgspec.Struct, frozen=True, rename="camel"):
    """The body of a new token."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    scope: Literal["read", "command", "admin"]
    expires_at: Moment | None = None


class MadeToken(msgspec.Struct, frozen=True, rename="camel"):
    """A new token, with its text for this one time."""

    id: str
    token: str
    name: str
    scope: str
    expires_at: datetime | None


class ShownToken(msgspec.Struct, frozen=True, rename="camel"):
    """A token as it is listed."""

    id: str
    name: str
    scope: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


async def every(request: web.Request) -> web.StreamResponse:
    tokens = await request.app[CONTEXT].tokens.all()
    return answer({"tokens": [_shown(token) for token in tokens]})


async def post(request: web.Request) -> web.StreamResponse:
    new = await bodies.read_as(request, NewToken)
    scope = Scope[new.scope.upper()]
    made, text = await request.app[CONTEXT].tokens.create(new.name, scope, _utc(new.expires_at))
    return answer(
        MadeToken(made.id, text, made.name, new.scope, made.expires_at),
        HTTPStatus.CREATED,
        {hdrs.LOCATION: f"/api/v1/tokens/{made.id}"},
    )


async def delete(request: web.Request) -> web.StreamResponse:
    """Revoke a token."""
    await request.app[CONTEXT].tokens.remove(request.match_info["token_id"])
    return answer({"success": True})


def _utc(moment: datetime | None) -> datetime | None:
    try:
        return None if moment is None else moment.astimezone(UTC)
    except OverflowError as problem:
        raise Invalid("bad expiry", {"expiresAt": "is outside of the years 1 to 9999 in UTC"}) from problem


def _shown(token: ApiToken) -> ShownToken:
    return ShownToken(
        token.id,
        token.name,
        token.scope.name.lower(),
        token.created_at,
        token.expires_at,
        token.last_used_at,
    )
