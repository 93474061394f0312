"""Gaps in what agents have numbered."""

from __future__ import annotations

from aiohttp import web

from pingup.http import query
from pingup.http.access import AGENT_ID
from pingup.http.context import CONTEXT
from pingup.http.problems import answer


async def get(request: web.Request) -> web.StreamResponse:
    """An agent's streams, the one heard of last first, each with its newest gaps."""
    query.want_json(request)
    agent_id = request.match_info[AGENT_ID]
    streams = await request.app[CONTEXT].history.gaps(agent_id, query.limit_of(request))
    return answer({"agentId": agent_id, "streams": streams})
