"""Metrics: taken from agents one at a time or by the line, and read back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from pingup import codec
from pingup.errors import Reason, Rejected, Unavailable
from pingup.http import bodies, query, uplink
from pingup.http.access import AGENT_ID
from pingup.http.context import CONTEXT
from pingup.http.middleware import STATUS_OF_REASONS
from pingup.http.problems import TooLarge, answer
from pingup.model import Inbound, Outcome, Presence, SampleVerdict
from pingup.services.ingest import PATIENCE, Ingest
from pingup.topics import Kind

NDJSON = "application/x-ndjson"
MAX_NDJSON_BYTES = 8 * 1024 * 1024
MAX_LINES = 10_000
_BREATH_EVERY = 100  # lines that are verified before others get their turn


class LineResult(msgspec.Struct, frozen=True):
    """What became of one line, as a call of its own would have been answered."""

    status: int
    duplicate: bool | UnsetType = UNSET
    stored: int | UnsetType = UNSET
    duplicates: int | UnsetType = UNSET
    rejected: tuple[SampleVerdict, ...] | UnsetType = UNSET
    reason: Reason | UnsetType = UNSET
    detail: str | UnsetType = UNSET


async def post(request: web.Request) -> web.Response:
    """Take a message, or with `application/x-ndjson` a message a line."""
    if request.content_type == NDJSON:
        return await _post_lines(request)
    payload = await bodies.read(request, uplink.MAX_MESSAGE_BYTES)
    return await uplink.take(request, Kind.METRICS, payload)


async def history(request: web.Request) -> web.Response:
    """An agent's samples, newest first unless asked otherwise, and how complete a range of them is."""
    context = request.app[CONTEXT]
    agent_id = request.match_info[AGENT_ID]
    span = query.span_of(request, context.clock.now())
    found = await context.history.samples(agent_id, query.one_more(span))
    page, following = query.page_of(request, span, found)
    samples = [codec.sample_json(sample) for sample in page]
    document: dict[str, object] = {"agentId": agent_id, "metrics": samples, "next": following}
    if span.start is not None or span.end is not None:
        document["completeness"] = context.history.completeness(agent_id, span.start, span.end)
    return answer(document)


async def newest(request: web.Request) -> web.Response:
    """The newest sample of each agent."""
    query.want_json(request)
    status = query.choice(request, "status", Presence)
    found = await request.app[CONTEXT].history.newest_samples(status=status, tag=request.query.get("tag"))
    samples = [{"agentId": sample.agent_id, **codec.sample_json(sample)} for sample in found]
    return answer({"metrics": samples})


# --- by the line -----------------------------------------------------------------------------------


async def _post_lines(request: web.Request) -> web.Response:
    body = await bodies.read(request, MAX_NDJSON_BYTES, NDJSON)
    if body.count(b"\n") > MAX_LINES:
        raise TooLarge(f"at most {MAX_LINES:,} lines may come at once")
    # The line end is not signed, nor is its carriage return; empty lines say nothing.
    lines = [line.removesuffix(b"\r") for line in body.split(b"\n") if line.strip()]
    messages = [uplink.inbound(request, Kind.METRICS, line) for line in lines]
    futures = await _submit(request.app[CONTEXT].ingest, messages)
    results = [
        _result(line, futures[index] if index < len(futures) else None) for index, line in enumerate(lines)
    ]
    return answer({"results": results}, HTTPStatus.MULTI_STATUS)


async def _submit(ingest: Ingest, messages: Sequence[Inbound]) -> list[asyncio.Future[Outcome]]:
    """Offer all messages, so that they share their commits, and wait for these as long as is bearable."""
    futures: list[asyncio.Future[Outcome]] = []
    try:
        async with asyncio.timeout(PATIENCE):
            for index, message in enumerate(messages):
                if index % _BREATH_EVERY == 0:
                    await asyncio.sleep(0)
                await ingest.room()
                futures.append(ingest.submit(message))
            if futures:
                await asyncio.wait(futures)
    except TimeoutError:
        pass  # what is not done by now is answered as unavailable
    return futures


def _result(payload: bytes, future: asyncio.Future[Outcome] | None) -> LineResult:
    if future is None or not future.done():
        return LineResult(HTTPStatus.SERVICE_UNAVAILABLE, detail="not stored in time; send it again")
    try:
        outcome = future.result()
    except Rejected as rejection:
        status = STATUS_OF_REASONS[rejection.reason]
        return LineResult(status, reason=rejection.reason, detail=rejection.detail)
    except Unavailable as problem:
        return LineResult(HTTPStatus.SERVICE_UNAVAILABLE, detail=str(problem))
    status, taken = uplink.taken(outcome)
    return LineResult(
        status,
        duplicate=taken.duplicate,
        stored=taken.stored,
        duplicates=taken.duplicates,
        rejected=taken.rejected,
    )
