"""What all signed messages over REST share: how they come in, and how they are answered."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from pingup.http.context import CONTEXT, PRINCIPAL
from pingup.http.problems import answer
from pingup.model import Inbound, Outcome, SampleVerdict
from pingup.topics import Kind

# Up to here a message is read, so that one that is too large is counted like any other refusal.
MAX_MESSAGE_BYTES = 1024 * 1024


class Taken(msgspec.Struct, frozen=True):
    """The answer to a message that was taken; the counts are a batch's."""

    success: bool = True
    duplicate: bool | UnsetType = UNSET
    stored: int | UnsetType = UNSET
    duplicates: int | UnsetType = UNSET
    rejected: tuple[SampleVerdict, ...] | UnsetType = UNSET


def inbound(request: web.Request, kind: Kind, payload: bytes) -> Inbound:
    """A message of the calling agent, as every edge hands it on."""
    return inbounds(request, kind, (payload,))[0]


def inbounds(request: web.Request, kind: Kind, payloads: Iterable[bytes]) -> list[Inbound]:
    """Messages of the calling agent that came together."""
    resource = request.match_info.route.resource
    path = request.path if resource is None else resource.canonical
    source, now = f"{request.method} {path}", request.app[CONTEXT].clock.now()
    agent_id = request[PRINCIPAL].id
    return [Inbound(kind, agent_id, payload, now, source) for payload in payloads]


def taken(outcome: Outcome) -> tuple[HTTPStatus, Taken]:
    """What became of a telemetry message: 201 when some of it is new, 200 when nothing is."""
    repeat = outcome.stored == 0 and outcome.duplicates > 0
    status = HTTPStatus.OK if repeat else HTTPStatus.CREATED
    duplicate = True if repeat else UNSET
    if not outcome.batch:
        return status, Taken(duplicate=duplicate)
    return status, Taken(
        duplicate=duplicate,
        stored=outcome.stored,
        duplicates=outcome.duplicates,
        rejected=outcome.rejected,
    )


async def take(request: web.Request, kind: Kind, payload: bytes) -> web.StreamResponse:
    """Bring telemetry in and answer once it is committed.

    Raises:
        Rejected: it is not taken.
        Unavailable: it could not be stored in time.
    """
    outcome = await request.app[CONTEXT].ingest.receive(inbound(request, kind, payload))
    status, document = taken(outcome)
    return answer(document, status)
