"""Metrics by the line: as many messages as a call brings, each judged as if it had come alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from pingup.errors import Reason, Rejected, Unavailable
from pingup.http import bodies, uplink
from pingup.http.context import CONTEXT
from pingup.http.middleware import STATUS_OF_REASONS
from pingup.http.problems import TooLarge, answer
from pingup.model import Outcome, SampleVerdict
from pingup.services.ingest import PATIENCE
from pingup.topics import Kind

NDJSON = "application/x-ndjson"
MAX_BYTES = 8 * 1024 * 1024
MAX_LINES = 10_000
_AT_ONCE = 100  # lines that are verified before others get their turn


class LineResult(msgspec.Struct, frozen=True, gc=False):
    """What became of one line, as a call of its own would have been answered."""

    status: int
    duplicate: bool | UnsetType = UNSET
    stored: int | UnsetType = UNSET
    duplicates: int | UnsetType = UNSET
    rejected: tuple[SampleVerdict, ...] | UnsetType = UNSET
    reason: Reason | UnsetType = UNSET
    detail: str | UnsetType = UNSET


async def post(request: web.Request) -> web.StreamResponse:
    """Take a message a line."""
    body = await bodies.read(request, MAX_BYTES, NDJSON)
    if body.count(b"\n") > MAX_LINES:
        raise TooLarge(f"at most {MAX_LINES:,} lines may come at once")
    # The line end is not signed, nor is its carriage return; empty lines say nothing.
    lines = [line.removesuffix(b"\r") for line in body.split(b"\n") if line.strip()]
    futures = await _submit(request, lines)
    results = [_result(future) for future in futures]
    results += [_result(None)] * (len(lines) - len(futures))
    return answer({"results": results}, HTTPStatus.MULTI_STATUS)


async def _submit(request: web.Request, lines: Sequence[bytes]) -> list[asyncio.Future[Outcome]]:
    """Offer all messages, so that they share their commits, and wait for these as long as is bearable."""
    ingest = request.app[CONTEXT].ingest
    futures: list[asyncio.Future[Outcome]] = []
    try:
        async with asyncio.timeout(PATIENCE):
            for start in range(0, len(lines), _AT_ONCE):
                await asyncio.sleep(0)
                if not ingest.has_room:
                    await ingest.room()
                # Not before: there is no room while the clock is wrong that tells when they came.
                messages = uplink.inbounds(request, Kind.METRICS, lines[start : start + _AT_ONCE])
                futures += map(ingest.submit, messages)
            await _end(futures)
    except TimeoutError:
        pass  # what is not done by now is answered as unavailable
    return futures


async def _end(futures: Sequence[asyncio.Future[Outcome]]) -> None:
    """Wait for all. Commits keep their order, so once the last is done hardly one is left to wait for."""
    for future in reversed(futures):
        if not future.done():
            await asyncio.wait((future,))


def _result(future: asyncio.Future[Outcome] | None) -> LineResult:
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
