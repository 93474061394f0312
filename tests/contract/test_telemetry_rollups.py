"""Histories in buckets: the same as adding up by hand, however the samples lie and the page is cut."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pingup.errors import Invalid
from pingup.model import Order, Sample
from pingup.rollups import Aggregate, Bucket, Rollup
from pingup.storage.duckdb import DuckDBTelemetry, rollups
from tests.contract.telemetry_examples import at, opened, sample, scan, store, ways

MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
EVERY = tuple(Aggregate)


@pytest.fixture
async def telemetry(tmp_path: Path) -> AsyncIterator[DuckDBTelemetry]:
    async with opened(tmp_path) as store:
        yield store


# --- the same by hand ------------------------------------------------------------------------------


def by_hand(samples: Sequence[Sample], rollup: Rollup) -> list[Bucket]:
    """What a rollup of these samples of one agent is."""
    buckets: dict[datetime, list[Sample]] = defaultdict(list)
    for one in samples:
        if (rollup.start is None or one.timestamp >= rollup.start) and (
            rollup.end is None or one.timestamp < rollup.end
        ):
            start = MONDAY + (one.timestamp - MONDAY) // rollup.step * rollup.step
            buckets[start].append(one)
    page = sorted(buckets, reverse=rollup.order is Order.DESC)[: rollup.limit]
    return [
        Bucket(
            start,
            len(buckets[start]),
            tuple(
                tuple(value_of(values_of(buckets[start], metric), what) for what in rollup.aggregates)
                for metric in rollup.metrics
            ),
        )
        for start in page
    ]


def values_of(samples: Sequence[Sample], metric: str) -> list[float]:
    """The values of a metric from the oldest to the newest."""
    values: Iterator[float | None] = (
        getattr(one, metric) if hasattr(one, metric) else json.loads(one.extra or "{}").get(metric)
        for one in sorted(samples, key=lambda one: one.timestamp)
    )
    return [value for value in values if value is not None]


def value_of(values: Sequence[float], aggregate: Aggregate) -> float | None:
    if aggregate is Aggregate.COUNT:
        return len(values)
    if not values:
        return None
    match aggregate:
        case Aggregate.AVG:
            return statistics.fmean(values)
        case Aggregate.MIN:
            return min(values)
        case Aggregate.MAX:
            return max(values)
        case Aggregate.LAST:
            return values[-1]
        case _:
            return percentile(sorted(values), float(aggregate[1:]) / 100)


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """Interpolated between the two values beside it."""
    place = fraction * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def check(found: Sequence[Bucket], expected: Sequence[Bucket]) -> None:
    assert [(bucket.timestamp, bucket.count) for bucket in found] == [
        (bucket.timestamp, bucket.count) for bucket in expected
    ]
    for one, other in zip(found, expected, strict=True):
        for values, wanted in zip(one.values, other.values, strict=True):
            assert values == pytest.approx(wanted)


moments = st.one_of(
    st.integers(0, 40).map(lambda n: at(n * 600)),
    st.integers(0, 400).map(at),
    st.integers(0, 30).map(lambda n: at(n * 86_400)),
)
numbers = st.one_of(st.none(), st.integers(-20, 100).map(float), st.floats(-1e3, 1e3))
samples = st.lists(
    st.builds(
        Sample,
        agent_id=st.sampled_from(["A", "A", "B"]),
        timestamp=moments,
        cpu=numbers,
        ram=numbers,
        disk=st.none(),
        latency=st.one_of(st.none(), st.integers(0, 200)),
        status=st.just("online"),
        extra=st.one_of(st.none(), st.integers(0, 9).map(lambda n: f'{{"a/b~c":{n}}}')),
    ),
    # Of several samples of one moment no one knows which is the last.
    unique_by=lambda one: (one.agent_id, one.timestamp),
    max_size=60,
)
bounds = st.one_of(st.none(), moments, moments.map(lambda moment: moment + timedelta(microseconds=1)))
questions = st.builds(
    Rollup,
    step=st.sampled_from([1, 7, 60, 300, 3600, 86_400, 604_800]).map(lambda n: timedelta(seconds=n)),
    metrics=st.lists(
        st.sampled_from(["cpu", "ram", "disk", "latency", "a/b~c"]), min_size=1, unique=True
    ).map(tuple),
    aggregates=st.lists(st.sampled_from(EVERY), min_size=1, unique=True).map(tuple),
    start=bounds,
    end=bounds,
    limit=st.one_of(st.integers(1, 5), st.just(10_000)),
    order=st.sampled_from(Order),
)


@settings(deadline=None, max_examples=30)
@given(samples, st.lists(questions, min_size=1, max_size=8), ways)
def test_a_rollup_is_what_adding_up_by_hand_gives(
    stored: list[Sample], asked: list[Rollup], way: int
) -> None:
    async def scenario() -> None:
        with TemporaryDirectory() as directory:
            async with opened(Path(directory), way) as telemetry:
                await store(telemetry, stored[1:])
                await store(telemetry, stored[:1])
                of_a = [one for one in stored if one.agent_id == "A"]
                for rollup in asked:
                    check(await telemetry.buckets("A", rollup), by_hand(of_a, rollup))

    asyncio.run(scenario())


# --- what it means ---------------------------------------------------------------------------------


async def test_what_was_not_measured_does_not_count_as_zero(telemetry: DuckDBTelemetry) -> None:
    await store(telemetry, [sample(seconds=n, cpu=cpu) for n, cpu in enumerate((None, 4.0, None, 8.0))])
    [bucket] = await telemetry.buckets("A", Rollup(HOUR, ("cpu", "disk"), EVERY[:5]))
    assert bucket == Bucket(at(0), 4, ((6.0, 4.0, 8.0, 8.0, 2), (71.4, 71.4, 71.4, 71.4, 4)))


async def test_a_metric_that_nobody_has_is_none_and_counted_zero_times(telemetry: DuckDBTelemetry) -> None:
    await store(telemetry, [sample()])
    [bucket] = await telemetry.buckets("A", Rollup(HOUR, ("fan",), EVERY))
    assert bucket.values == ((None, None, None, None, 0, None, None, None),)


async def test_a_week_begins_on_a_monday(telemetry: DuckDBTelemetry) -> None:
    await store(telemetry, [sample(seconds=n * 86_400) for n in range(14)])
    weeks = await telemetry.buckets("A", Rollup(timedelta(days=7), ("cpu",), (Aggregate.AVG,)))
    assert [week.timestamp.isoweekday() for week in weeks] == [1, 1, 1]
    assert sum(week.count for week in weeks) == 14


async def test_scans_are_in_no_bucket(telemetry: DuckDBTelemetry) -> None:
    await store(telemetry, [scan()])
    assert await telemetry.buckets("A", Rollup(HOUR, ("cpu",), (Aggregate.AVG,))) == []


async def test_percentiles_of_more_than_fits_into_memory_are_found_bit_by_bit(
    telemetry: DuckDBTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "_AIM", 40)
    stored = [sample(seconds=n * 1800, cpu=float(n * 7 % 101)) for n in range(400)]
    await store(telemetry, stored)
    for order in Order:
        rollup = Rollup(HOUR, ("cpu", "ram"), (Aggregate.P95, Aggregate.P50), limit=150, order=order)
        check(await telemetry.buckets("A", rollup), by_hand(stored, rollup))


async def test_a_bucket_with_too_many_samples_for_percentiles_is_refused_and_not_tried(
    telemetry: DuckDBTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "_MOST", 20)
    await store(telemetry, [sample(seconds=n) for n in range(11)])
    rollup = Rollup(timedelta(days=2), ("cpu", "ram"), (Aggregate.P99,))
    with pytest.raises(Invalid, match="step"):
        await telemetry.buckets("A", rollup)
    assert len(await telemetry.buckets("A", replace(rollup, metrics=("cpu",)))) == 1
    assert len(await telemetry.buckets("A", replace(rollup, aggregates=(Aggregate.AVG,)))) == 1
