"""Time series: samples, scans, how they are numbered, and stretches of them to read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec


class Sample(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """One measurement of an agent: a row of the table `metrics`, in the order of its columns.

    `latency` is whole milliseconds in int32, None for "no answer". `extra` holds the further metrics as the
    text of a JSON object sorted by name, None when there are none, so that equal values are equal texts.
    """

    agent_id: str
    timestamp: datetime
    cpu: float | None
    ram: float | None
    disk: float | None
    latency: int | None
    status: str
    extra: str | None = None


class Host(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One host that a scan found. `latency` is whole milliseconds, None for "no answer"."""

    ip: str
    latency: int | None
    ports: tuple[int, ...]
    mac: str | None = None
    hostname: str | None = None
    vendor: str | None = None


class Scan(msgspec.Struct, frozen=True, gc=False):
    """One discovery run of an agent; an empty one counts too. `duration` is whole milliseconds in int32."""

    agent_id: str
    timestamp: datetime
    duration: int
    hosts: tuple[Host, ...]


Record = Sample | Scan


class Numbering(msgspec.Struct, frozen=True, gc=False):
    """How an agent that keeps a spool has numbered a message (contract, section 4).

    `stream` names the spool, `seq` counts its messages from 1, `first` is the lowest that it still holds:
    what is below it will never be sent again.
    """

    stream: str
    seq: int
    first: int = 1


class Fate(StrEnum):
    """What became of a numbered message: nothing more is to be done about either."""

    STORED = "stored"
    REFUSED = "refused"


class Run(msgspec.Struct, frozen=True, gc=False):
    """Messages of one stream and one fate, numbered `low` to `high`, both included; it may be only one.

    `low_at` is the oldest moment in the message `low` and `high_at` the newest in `high`, by the agent's
    clock; of refused ones when they came. `first` is the highest that came with them, `received_at` when the
    last of them came by the server's clock, or something later of their stream.
    """

    agent_id: str
    stream: str
    fate: Fate
    low: int
    high: int
    first: int
    low_at: datetime
    high_at: datetime
    received_at: datetime


class Deposit(msgspec.Struct, frozen=True):
    """What one transaction brings to the store: records, and which numbered messages have come."""

    records: Sequence[Record]
    runs: Sequence[Run] = ()


class Order(StrEnum):
    """Which end of a history comes first."""

    DESC = "desc"
    ASC = "asc"


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a page of a history ended: the last moment shown and how many records of that moment were."""

    timestamp: datetime
    shown: int


class Span(msgspec.Struct, frozen=True):
    """A stretch of a history to read: `start` inclusive, `end` exclusive, at most `limit` records."""

    start: datetime | None = None
    end: datetime | None = None
    limit: int = 100
    order: Order = Order.DESC
    after: Place | None = None
