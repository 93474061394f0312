"""Configurations of agents: versioned, with ETags so that nobody overwrites what he has not seen."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from pingup.errors import Invalid, PreconditionFailed
from pingup.http import bodies, query
from pingup.http.access import AGENT_ID
from pingup.http.answers import Headers
from pingup.http.context import CONTEXT
from pingup.http.problems import answer, empty
from pingup.services.configs import AgentConfig

Version = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Rollback(msgspec.Struct, frozen=True):
    """The body of a rollback: the version to go back to."""

    version: Version


async def get(request: web.Request) -> web.StreamResponse:
    """The newest configuration, or that of `?version=`; 304 when the caller has it already."""
    config = await request.app[CONTEXT].configs.get(request.match_info[AGENT_ID], _version_of(request))
    known = request.if_none_match or ()
    if any(tag.value in ("*", _tag(config.version)) for tag in known):
        return empty(HTTPStatus.NOT_MODIFIED, _headers(config))
    return _answer(config)


async def post(request: web.Request) -> web.StreamResponse:
    """Make the body the next version, if the newest one is the one that `If-Match` names."""
    config = await bodies.read_as(request, dict[str, Any])
    expected = await _expected(request)
    made = await request.app[CONTEXT].configs.set(request.match_info[AGENT_ID], config, expected)
    return _answer(made)


async def history(request: web.Request) -> web.StreamResponse:
    """All versions, newest first."""
    agent_id = request.match_info[AGENT_ID]
    versions = await request.app[CONTEXT].configs.history(agent_id, query.limit_of(request))
    return answer({"agentId": agent_id, "versions": versions})


async def roll_back(request: web.Request) -> web.StreamResponse:
    """Make a new version with the content of an old one."""
    wish = await bodies.read_as(request, Rollback)
    made = await request.app[CONTEXT].configs.roll_back(request.match_info[AGENT_ID], wish.version)
    return _answer(made)


def _version_of(request: web.Request) -> int | None:
    text = request.query.get("version")
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) is None:
        raise Invalid("bad version", {"version": "a whole number"})
    return int(text)


async def _expected(request: web.Request) -> int | None:
    """The version that must still be the newest, None when any will do (RFC 9110, section 13.1.1)."""
    tags = request.if_match
    if tags is None or any(tag.value == "*" for tag in tags):
        return None
    newest = (await request.app[CONTEXT].configs.get(request.match_info[AGENT_ID])).version
    if not any(tag.value == _tag(newest) and not tag.is_weak for tag in tags):
        raise PreconditionFailed(f'the newest version is "{_tag(newest)}"')
    return newest


def _tag(version: int) -> str:
    return f"v{version}"


def _headers(config: AgentConfig) -> Headers:
    return {hdrs.ETAG: f'"{_tag(config.version)}"', hdrs.CACHE_CONTROL: "no-cache"}


def _answer(config: AgentConfig) -> web.StreamResponse:
    return answer(config, headers=_headers(config))
