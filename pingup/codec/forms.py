"""What the messages of agents look like, for the parser."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pingup.codec.limits import INT64_MAX, MAX_ID, MAX_SAMPLES

Moment = Annotated[datetime, Meta(tz=True)]
Number = int | float
Word = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,32}\Z")]
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Text = Annotated[str, Meta(max_length=1024)]
Counter = Annotated[int, Meta(ge=1, le=INT64_MAX)]
_Many = Meta(min_length=1, max_length=MAX_SAMPLES)


class Envelope(msgspec.Struct, rename="camel", frozen=True):
    agent_id: str
    timestamp: Moment


class Numbered(Envelope, kw_only=True, frozen=True):
    """What a sender that keeps a spool adds (contract, section 4)."""

    seq: Counter | UnsetType = UNSET
    stream: Id | UnsetType = UNSET
    first: Counter = 1


class Numbers(msgspec.Struct, frozen=True):
    """The same members of a message that may be wrong in every other way."""

    seq: Counter
    stream: Id
    first: Any = 1


class BatchedSample(msgspec.Struct, frozen=True):
    timestamp: Moment
    metrics: dict[str, Number | None]
    status: Word


class Metrics(Numbered, kw_only=True, frozen=True):
    metrics: dict[str, Number | None] | UnsetType = UNSET
    status: Word | UnsetType = UNSET
    samples: Annotated[Sequence[BatchedSample], _Many] | UnsetType = UNSET


# From there on an integer might be one that is beyond 64 bits, and infinity lies there too.
_Ordinary = Annotated[float, Meta(gt=-(2.0**63), lt=2.0**63)]


class PlainSample(BatchedSample, frozen=True, forbid_unknown_fields=True, gc=False):
    metrics: dict[str, _Ordinary | None]
    status: str


class PlainMetrics(Metrics, kw_only=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """`Metrics` with nothing in it that the parser would pass over; statuses are not checked."""

    signature: str = ""
    metrics: dict[str, _Ordinary | None] | UnsetType = UNSET
    status: str | UnsetType = UNSET
    samples: Annotated[Sequence[PlainSample], _Many] | UnsetType = UNSET


class Host(msgspec.Struct, frozen=True):
    ip: Annotated[str, Meta(max_length=45)]
    latency: Number | None
    ports: list[Annotated[int, Meta(ge=0, le=65535)]]
    mac: Annotated[str, Meta(max_length=64)] | None = None
    hostname: Annotated[str, Meta(max_length=255)] | None = None
    vendor: Annotated[str, Meta(max_length=255)] | None = None


class ScanBody(msgspec.Struct, frozen=True):
    hosts: list[Host]
    duration: Number


class Discovery(Numbered, kw_only=True, frozen=True):
    discovery: ScanBody


class Status(Envelope, kw_only=True, frozen=True):
    session: Id
    status: Annotated[str, Meta(pattern=r"^(online|offline)\Z")]
    version: Text | None = None
    interval: Annotated[float, Meta(gt=0, le=86400)] | None = None


class Result(Envelope, kw_only=True, frozen=True):
    command_id: Id
    status: Annotated[str, Meta(pattern=r"^(acknowledged|running|completed|failed|rejected)\Z")]
    result: msgspec.Raw | UnsetType = UNSET


class ConfigReport(Envelope, kw_only=True, frozen=True):
    version: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    applied: bool
    error: Text | None = None
