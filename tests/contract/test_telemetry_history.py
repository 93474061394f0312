"""Histories in pages: every record once, whatever the order, the bounds and the size of a page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pingup.model import Order, Place, Record, Sample, Scan, Span
from pingup.storage.duckdb import DuckDBTelemetry
from tests.contract import telemetry_examples as examples
from tests.contract.telemetry_examples import at, opened, place_after, sample, scan, store

Page = Callable[[str, Span], Awaitable[list[Sample]]] | Callable[[str, Span], Awaitable[list[Scan]]]


@pytest.fixture
async def telemetry(tmp_path: Path) -> AsyncIterator[DuckDBTelemetry]:
    async with opened(tmp_path) as store:
        yield store


bounds = st.one_of(st.none(), st.integers(-1, 5).map(at), st.integers(-1, 5).map(lambda n: at(n + 0.000001)))
spans = st.builds(
    Span, start=bounds, end=bounds, limit=st.integers(1, 7), order=st.sampled_from([Order.ASC, Order.DESC])
)
batches = st.lists(st.lists(st.one_of(examples.samples, examples.scans), max_size=12), max_size=3)


@settings(deadline=None, max_examples=20)
@given(batches, st.lists(spans, min_size=1, max_size=6), examples.ways)
def test_the_pages_of_a_history_hold_every_record_once_and_in_order(
    batches: list[list[Record]], spans: list[Span], way: int
) -> None:
    async def scenario() -> None:
        with TemporaryDirectory() as directory:
            async with opened(Path(directory), way) as telemetry:
                for batch in batches:
                    await store(telemetry, batch)
                stored = {record for batch in batches for record in batch if record.agent_id == "A"}
                for span in spans:
                    found = await _walk(telemetry.samples, span)
                    _check(found, [record for record in stored if isinstance(record, Sample)], span)
                    found = await _walk(telemetry.scans, span)
                    _check(found, [record for record in stored if isinstance(record, Scan)], span)

    asyncio.run(scenario())


async def _walk(page_of: Page, span: Span) -> list[Record]:
    found: list[Record] = []
    place = None
    while page := await page_of("A", replace(span, after=place)):
        assert len(page) <= span.limit
        found += page
        place = place_after([record.timestamp for record in page], place)
    return found


def _check(found: list[Record], stored: list[Sample] | list[Scan], span: Span) -> None:
    expected = {
        record
        for record in stored
        if (span.start is None or record.timestamp >= span.start)
        and (span.end is None or record.timestamp < span.end)
    }
    assert len(found) == len(expected)
    assert set(found) == expected
    moments = [record.timestamp for record in found]
    assert moments == sorted(moments, reverse=span.order is Order.DESC)


async def test_the_start_is_inclusive_and_the_end_exclusive(telemetry: DuckDBTelemetry) -> None:
    await store(telemetry, [sample(seconds=n) for n in range(4)])
    assert await telemetry.samples("A", Span(start=at(1), end=at(3))) == [
        sample(seconds=2),
        sample(seconds=1),
    ]


async def test_the_newest_come_first_unless_asked_otherwise(telemetry: DuckDBTelemetry) -> None:
    await store(telemetry, [sample(seconds=n) for n in range(4)])
    assert await telemetry.samples("A", Span(limit=1)) == [sample(seconds=3)]
    assert await telemetry.samples("A", Span(limit=1, order=Order.ASC)) == [sample(seconds=0)]


@pytest.mark.parametrize("order", list(Order))
async def test_a_late_record_moves_none_of_those_already_shown(
    telemetry: DuckDBTelemetry, order: Order
) -> None:
    first = [sample(cpu=cpu) for cpu in (3.0, 1.0, 2.0)]
    await store(telemetry, first)
    shown = await telemetry.samples("A", Span(limit=2, order=order))
    await store(telemetry, [sample(cpu=0.0), sample(cpu=9.0)])
    rest = await telemetry.samples("A", Span(order=order, after=Place(at(0), 2)))
    assert [*shown, *rest] == [*first, sample(cpu=0.0), sample(cpu=9.0)]


async def test_a_page_goes_on_at_the_right_place_after_retention_has_taken_what_was_shown(
    telemetry: DuckDBTelemetry,
) -> None:
    await store(telemetry, [sample(cpu=0.0), sample(cpu=1.0), *(sample(seconds=n) for n in range(1, 4))])
    await store(telemetry, [scan(hosts=1), scan(hosts=2), *(scan(seconds=n) for n in range(1, 4))])
    span = Span(order=Order.ASC, after=Place(at(0), 2))
    await telemetry.forget(samples_before=at(1), scans_before=at(1))
    assert await telemetry.samples("A", span) == [sample(seconds=n) for n in range(1, 4)]
    assert await telemetry.scans("A", span) == [scan(seconds=n) for n in range(1, 4)]


async def test_scans_are_paged_whole(telemetry: DuckDBTelemetry) -> None:
    stored = [scan(seconds=n, hosts=n) for n in range(5)]
    await store(telemetry, stored)
    page = await telemetry.scans("A", Span(limit=2))
    assert page == [stored[4], stored[3]]
    assert await telemetry.scans("A", Span(limit=10, after=Place(at(3), 1))) == stored[2::-1]


async def test_the_largest_pages_come_back_within_the_memory_that_is_given(
    telemetry: DuckDBTelemetry,
) -> None:
    # As wide as samples get, 64 further metrics with long names, and nothing in them to compress.
    noise = Random(7)
    wide = [replace(sample(seconds=n), extra=noise.randbytes(2500).hex()) for n in range(10_000)]
    for start in range(0, len(wide), 2000):
        await store(telemetry, wide[start : start + 2000])
    assert await telemetry.samples("A", Span(limit=10_000)) == wide[::-1]
    broad = [scan(seconds=n, hosts=250) for n in range(100)]
    await store(telemetry, broad)
    assert await telemetry.scans("A", Span(limit=100)) == broad[::-1]


async def test_the_newest_sample_of_each_agent_is_by_its_own_time(telemetry: DuckDBTelemetry) -> None:
    await store(telemetry, [sample("B", 5), sample("A", 9), sample("C", 1), scan("D", 7)])
    await store(telemetry, [sample("B", 3), sample("A", 2), sample("C", 8)])
    newest = [sample("A", 9), sample("B", 5), sample("C", 8)]
    assert await telemetry.newest_samples() == newest
    assert await telemetry.newest_samples(["C", "nobody", "A"]) == [newest[0], newest[2]]
    assert await telemetry.newest_samples([]) == []


async def test_the_newest_of_one_moment_is_the_first_of_the_history(telemetry: DuckDBTelemetry) -> None:
    await store(telemetry, [sample(cpu=cpu) for cpu in (3.0, 1.0, 2.0)])
    assert await telemetry.newest_samples() == await telemetry.samples("A", Span(limit=1))


@pytest.mark.parametrize("moment", [datetime.min, datetime.max], ids=["year 1", "year 9999"])
async def test_bounds_at_the_ends_of_the_calendar_are_bounds(
    telemetry: DuckDBTelemetry, moment: datetime
) -> None:
    edge = moment.replace(tzinfo=at(0).tzinfo)
    await store(telemetry, [replace(sample(), timestamp=edge)])
    assert len(await telemetry.samples("A", Span(start=edge))) == 1
    assert len(await telemetry.samples("A", Span())) == 1
    assert await telemetry.samples("A", Span(end=edge)) == []


async def test_a_read_waits_for_no_write_but_that_of_what_it_is_about(telemetry: DuckDBTelemetry) -> None:
    await store(telemetry, [sample(), scan("B")])
    await store(telemetry, [sample("B")])
    done = threading.Event()
    busy = telemetry._writing.submit(done.wait, 30)
    try:
        async with asyncio.timeout(10):
            about_b = asyncio.create_task(telemetry.samples("B", Span()))
            assert await telemetry.samples("A", Span(end=at(0) + timedelta(seconds=1))) == [sample()]
            assert await telemetry.newest_samples(["A"]) == [sample()]
            assert await telemetry.scans("B", Span()) == [scan("B")]
            await telemetry.check()
            assert not about_b.done()
    finally:
        done.set()
    assert busy.result()
    assert await about_b == [sample("B")]


async def test_a_read_does_not_wait_for_a_write_once_everything_is_in_the_tables(
    telemetry: DuckDBTelemetry,
) -> None:
    await store(telemetry, [sample()])
    assert await telemetry.samples("A", Span()) == [sample()]
    done = threading.Event()
    busy = telemetry._writing.submit(done.wait, 30)
    try:
        async with asyncio.timeout(10):
            assert await telemetry.samples("A", Span()) == await telemetry.newest_samples() == [sample()]
            assert await telemetry.runs() == []
    finally:
        done.set()
    assert busy.result()


async def test_the_newest_page_is_right_however_often_one_asks_and_whatever_comes_between(
    telemetry: DuckDBTelemetry,
) -> None:
    chance = Random(5)
    stored: list[Sample] = []
    for round_ in range(60):
        batch = [
            replace(
                sample(seconds=chance.randint(0, round_ * 2), cpu=float(number)),
                extra=chance.choice([None, '{"load":1.0}', f'{{"name":"{300 * "x"}"}}']),
            )
            for number in range(chance.choice([0, 1, 5, 50]))
        ]
        new = await store(telemetry, batch)
        stored += [one for one, is_new in zip(batch, new, strict=True) if is_new]
        if round_ % 13 == 12:
            gone = at(chance.randint(0, round_))
            await telemetry.forget(gone, gone)
            stored = [one for one in stored if one.timestamp >= gone]
        if round_ % 29 == 28:
            await telemetry.purge("A")
            stored = []
        # Sorting is stable, so those of one moment stay in the order of their storing.
        newest = sorted(stored, key=lambda one: one.timestamp, reverse=True)
        for limit in (1, 7, 100):
            assert await telemetry.samples("A", Span(limit=limit)) == newest[:limit]
