"""Discovery: scans taken from agents, and read back whole."""

from __future__ import annotations

from aiohttp import web

from pingup import codec
from pingup.http import bodies, query, uplink
from pingup.http.access import AGENT_ID
from pingup.http.context import CONTEXT
from pingup.http.problems import answer
from pingup.topics import Kind


async def post(request: web.Request) -> web.StreamResponse:
    """Take a scan."""
    payload = await bodies.read(request, uplink.MAX_MESSAGE_BYTES)
    return await uplink.take(request, Kind.DISCOVERY, payload)


async def history(request: web.Request) -> web.StreamResponse:
    """An agent's scans, newest first unless asked otherwise."""
    context = request.app[CONTEXT]
    agent_id = request.match_info[AGENT_ID]
    query.refuse(request, "step", "agg", "fields")
    span = query.span_of(request, context.clock.now())
    found = await context.history.scans(agent_id, query.one_more(span))
    page, following = query.page_of(request, span, found)
    scans = [codec.scan_json(scan) for scan in page]
    return answer({"agentId": agent_id, "discovery": scans, "next": following})


async def latest(request: web.Request) -> web.StreamResponse:
    """An agent's newest scan, null when it has made none."""
    query.refuse(request, "diff")
    query.want_json(request)
    agent_id = request.match_info[AGENT_ID]
    scan = await request.app[CONTEXT].history.newest_scan(agent_id)
    return answer({"agentId": agent_id, "discovery": codec.scan_json(scan) if scan else None})
