"""Metrics: taken from agents one at a time or by the line, and read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from pingup import codec
from pingup.errors import Invalid
from pingup.http import bodies, ndjson, query, rollups, uplink
from pingup.http.access import AGENT_ID
from pingup.http.context import CONTEXT
from pingup.http.problems import answer
from pingup.model import Presence
from pingup.topics import Kind


async def post(request: web.Request) -> web.StreamResponse:
    """Take a message, or with `application/x-ndjson` a message a line."""
    if request.content_type == ndjson.NDJSON:
        return await ndjson.post(request)
    payload = await bodies.read(request, uplink.MAX_MESSAGE_BYTES)
    return await uplink.take(request, Kind.METRICS, payload)


async def history(request: web.Request) -> web.StreamResponse:
    """An agent's samples, newest first unless asked otherwise, and how complete a range of them is.

    With `step` the answer has buckets in place of samples.
    """
    if "step" in request.query:
        return await rollups.history(request)
    context = request.app[CONTEXT]
    agent_id = request.match_info[AGENT_ID]
    if "agg" in request.query:
        raise Invalid("bad agg", {"agg": "goes with `step` only"})
    fields = query.fields_of(request)
    span = query.span_of(request, context.clock.now())
    found = await context.history.samples(agent_id, query.one_more(span))
    page, following = query.page_of(request, span, found)
    samples = [codec.sample_json(sample) for sample in page]
    if fields is not None:
        samples = [_only(sample, fields) for sample in samples]
    document: dict[str, object] = {"agentId": agent_id, "metrics": samples, "next": following}
    if span.start is not None or span.end is not None:
        document["completeness"] = context.history.completeness(agent_id, span.start, span.end)
    return answer(document)


def _only(sample: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """When it was, and of the rest the fields that were asked for, null where it doesn't have them."""
    return {"timestamp": sample["timestamp"], **{field: sample.get(field) for field in fields}}


async def newest(request: web.Request) -> web.StreamResponse:
    """The newest sample of each agent."""
    query.want_json(request)
    status = query.choice(request, "status", Presence)
    found = await request.app[CONTEXT].history.newest_samples(status=status, tag=request.query.get("tag"))
    samples = [{"agentId": sample.agent_id, **codec.sample_json(sample)} for sample in found]
    return answer({"metrics": samples})
