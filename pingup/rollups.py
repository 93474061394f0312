"""Histories rolled up: what is asked, and the buckets that are answered. Frozen, without behaviour."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from pingup.model import Order


class Aggregate(StrEnum):
    """What is made of a metric's values in a bucket; where it was not measured it does not count at all.

    `last` is the newest value, `count` how many there are. Percentiles are interpolated between the two
    values beside them.
    """

    AVG = "avg"
    MIN = "min"
    MAX = "max"
    LAST = "last"
    COUNT = "count"
    P50 = "p50"
    P95 = "p95"
    P99 = "p99"


class Rollup(msgspec.Struct, frozen=True):
    """The buckets of a history to read: `start` inclusive, `end` exclusive, at most `limit` buckets.

    `metrics` are cpu, ram, disk, latency, or names of further ones.
    """

    step: timedelta
    metrics: tuple[str, ...]
    aggregates: tuple[Aggregate, ...]
    start: datetime | None = None
    end: datetime | None = None
    limit: int = 100
    order: Order = Order.DESC


class Bucket(msgspec.Struct, frozen=True):
    """The samples from `timestamp` on, for as long as a step: how many, and what was made of them.

    `values` has a row for each metric that was asked for, with a value for each aggregate; None where no
    sample has the metric.
    """

    timestamp: datetime
    count: int
    values: tuple[tuple[float | None, ...], ...]
