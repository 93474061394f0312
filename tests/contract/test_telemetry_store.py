"""What is stored comes back once and whole: columns, repeats, records that no column can hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pingup.errors import Unavailable, Unstorable
from pingup.model import Host, Record, Sample, Scan, Span
from pingup.ports import TelemetryStore
from pingup.storage.duckdb import DuckDBTelemetry
from pingup.storage.duckdb.database import Database
from pingup.storage.duckdb.writer import JOURNALED_BELOW, _Session
from tests.contract import telemetry_examples as examples
from tests.contract.telemetry_examples import (
    NEVER_JOURNALED,
    all_samples,
    all_scans,
    at,
    crashed,
    opened,
    sample,
    scan,
    store,
)

both_ways = pytest.mark.parametrize("way", [NEVER_JOURNALED, JOURNALED_BELOW], ids=["straight", "journaled"])


@pytest.fixture(params=[NEVER_JOURNALED, JOURNALED_BELOW], ids=["straight", "journaled"])
async def telemetry(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[DuckDBTelemetry]:
    async with opened(tmp_path, request.param) as store:
        yield store


def test_it_is_what_the_services_ask_for(telemetry: DuckDBTelemetry) -> None:
    port: TelemetryStore = telemetry
    assert port is telemetry


# --- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored",
    [
        Sample("A", datetime(2026, 2, 25, 10, 0, 0, 123456, UTC), 12.5, 43.2, 71.4, 8, "online"),
        Sample("A.b-c_d", at(0), None, None, None, None, "x", '{"temperature":-0.5}'),
        Sample("A", at(0), 1e308, -1e-308, 0.1 + 0.2, 2**31 - 1, "é\0'", '{"":0.0}'),
        Sample("A", at(0), 0.0, 100.0, 1e17, -(2**31), "", ""),
        Sample("A", datetime.min.replace(tzinfo=UTC), 1.0, None, None, None, "online"),
        Sample("A", datetime.max.replace(tzinfo=UTC), 1.0, None, None, None, "online"),
    ],
)
async def test_every_column_of_a_sample_comes_back(telemetry: DuckDBTelemetry, stored: Sample) -> None:
    assert await store(telemetry, [stored]) == [True]
    assert await all_samples(telemetry, stored.agent_id) == [stored]
    assert await store(telemetry, [stored]) == [False]


async def test_a_moment_comes_back_in_utc_whatever_zone_it_was_given_in(telemetry: DuckDBTelemetry) -> None:
    in_india = at(0).astimezone(timezone(timedelta(hours=5, minutes=30)))
    await store(telemetry, [replace(sample(), timestamp=in_india)])
    (found,) = await all_samples(telemetry)
    assert (found.timestamp, found.timestamp.tzinfo) == (at(0), UTC)


@pytest.mark.parametrize(
    "stored",
    [
        Scan("A", at(0), 15230, ()),
        Scan("A", at(0), 0, (Host("192.168.1.1", 2, (80, 443)),)),
        Scan(
            "A",
            at(0),
            2**31 - 1,
            (Host("::1", None, (), "aa:bb:cc:dd:ee:ff", "é.lan", "A, B"), Host("::2", 0, (0,))),
        ),
        Scan("A", at(0), 7, tuple(Host(f"10.0.{n // 250}.{n % 250}", n, (n,)) for n in range(1000, 0, -1))),
    ],
    ids=["empty", "one", "all columns", "thousand"],
)
async def test_a_scan_comes_back_whole_with_its_hosts_in_order(
    telemetry: DuckDBTelemetry, stored: Scan
) -> None:
    assert await store(telemetry, [stored]) == [True]
    assert await all_scans(telemetry) == [stored]


async def test_samples_and_scans_of_one_batch_are_answered_each_in_its_place(
    telemetry: DuckDBTelemetry,
) -> None:
    await store(telemetry, [scan(seconds=1), sample(seconds=2)])
    batch: list[Record] = [sample(seconds=1), scan(seconds=1), scan(seconds=2), sample(seconds=2)]
    assert await store(telemetry, batch) == [True, False, True, False]
    assert await store(telemetry, []) == []


# --- repeats ---------------------------------------------------------------------------------------

VARIANTS = [
    replace(sample(), cpu=None),
    replace(sample(), cpu=0.0),
    replace(sample(), ram=None),
    replace(sample(), disk=None),
    replace(sample(), latency=None),
    replace(sample(), latency=0),
    replace(sample(), status="busy"),
    replace(sample(), extra='{"load":1.0}'),
    replace(sample(), agent_id="B"),
    replace(sample(), timestamp=at(0.000001)),
]
SCAN_VARIANTS = [
    scan(hosts=0),
    scan(hosts=1),
    scan(hosts=3),
    replace(scan(), duration=1),
    replace(scan(), hosts=scan().hosts[::-1]),
    replace(scan(), agent_id="B"),
]


@both_ways
@pytest.mark.parametrize("record", [sample(), scan(), scan(hosts=0)], ids=["sample", "scan", "empty scan"])
async def test_a_repeat_is_stored_once(tmp_path: Path, way: int, record: Record) -> None:
    async with opened(tmp_path, way) as telemetry:
        assert await store(telemetry, [record, record]) == [True, False]
        assert await store(telemetry, [record]) == [False]
    async with opened(tmp_path, way) as telemetry:
        assert await store(telemetry, [record, record]) == [False, False]
        assert [*await all_samples(telemetry), *await all_scans(telemetry)] == [record]


@both_ways
@pytest.mark.parametrize(("original", "variants"), [(sample(), VARIANTS), (scan(), SCAN_VARIANTS)])
async def test_other_values_under_the_same_moment_are_kept_beside(
    tmp_path: Path, way: int, original: Record, variants: list[Record]
) -> None:
    async with opened(tmp_path, way) as telemetry:
        assert await store(telemetry, [original]) == [True]
        for variant in variants:
            assert await store(telemetry, [variant, original]) == [True, False]
    async with opened(tmp_path, way) as telemetry:
        assert not any(await store(telemetry, [original, *variants]))


@both_ways
async def test_late_records_are_stored_once(tmp_path: Path, way: int) -> None:
    late: list[Record] = [sample(seconds=-5), scan(seconds=-5), sample(seconds=-3)]
    async with opened(tmp_path, way) as telemetry:
        await store(telemetry, [sample(), scan(), sample("B")])
        assert await store(telemetry, late) == [True] * 3
        assert await store(telemetry, late) == [False] * 3
    async with opened(tmp_path, way) as telemetry:
        assert await store(telemetry, [sample("B", seconds=-5), *late]) == [True, False, False, False]


@both_ways
async def test_a_repeat_is_noticed_after_a_purge_of_what_was_newer(tmp_path: Path, way: int) -> None:
    """DuckDB 2.0 may skip what is newest of the rest, once the newest of all was deleted."""
    async with opened(tmp_path, way) as telemetry:
        await store(telemetry, [sample("A", 100)])
    async with opened(tmp_path, way) as telemetry:
        await store(telemetry, [sample("P", 101), sample("B", 1)])
        await telemetry.purge("P")
    async with opened(tmp_path, way) as telemetry:
        assert await telemetry.newest() == at(100)
        assert await store(telemetry, [sample("A", 100)]) == [False]
        assert await all_samples(telemetry) == [sample("A", 100)]


def test_the_digest_of_a_scan_stays_the_same_from_release_to_release() -> None:
    from pingup.storage.duckdb.tables import digest

    found = Scan(
        "A", at(0), 15230, (Host("192.168.1.1", 2, (80, 443)), Host("::1", None, (), hostname="a.lan"))
    )
    assert digest(found) == digest(replace(found, agent_id="B", timestamp=at(9)))
    assert digest(found) == "b587b9481e02377be54fe3ef0cf145e8"


REOPEN, CRASH = "reopen", "crash"
batches = st.one_of(
    st.lists(examples.samples, max_size=6), st.lists(st.one_of(examples.samples, examples.scans), max_size=6)
)
steps = st.lists(st.one_of(batches, batches, st.sampled_from([REOPEN, CRASH])), max_size=10)


@settings(deadline=None, max_examples=25)
@given(steps, examples.ways)
def test_the_store_is_a_set_of_records_whatever_comes_in_whatever_order(
    steps: list[list[Record] | str], way: int
) -> None:
    asyncio.run(_compare_with_a_set([*steps, CRASH, REOPEN], way))


async def _compare_with_a_set(steps: list[list[Record] | str], way: int) -> None:
    known: set[Record] = set()
    with TemporaryDirectory() as root:
        directory, remaining = Path(root), list(steps)
        while remaining:
            async with opened(directory, way) as telemetry:
                while not isinstance(step := remaining.pop(0), str):
                    expected = [
                        record not in known and record not in step[:n] for n, record in enumerate(step)
                    ]
                    assert await store(telemetry, step) == expected
                    known.update(step)
                if step == CRASH:
                    directory = await crashed(telemetry, directory)
                stored: list[Record] = []
                for agent_id in ("A", "B"):
                    stored += await all_samples(telemetry, agent_id)
                    stored += await all_scans(telemetry, agent_id)
                assert len(stored) == len(known)
                assert set(stored) == known


# --- records that no column can hold -----------------------------------------------------------------

UNSTORABLE: list[Any] = [
    replace(sample(seconds=1), latency=3_000_000_000),
    replace(sample(seconds=1), cpu="warm"),
    replace(sample(seconds=1), cpu=object()),
    replace(sample(seconds=1), status="\ud800"),
    replace(sample(seconds=1), timestamp="now"),
    replace(sample(seconds=-1), latency=3_000_000_000),
    replace(scan(seconds=1), duration=3_000_000_000),
    replace(scan(seconds=1), hosts=(Host("10.0.0.1", 3_000_000_000, ()),)),
    replace(scan(seconds=1), hosts=(Host("10.0.0.1", 1, (), hostname="\ud800"),)),
]


@both_ways
@pytest.mark.parametrize("bad", UNSTORABLE)
async def test_a_record_that_cannot_be_stored_leaves_no_trace_of_its_batch(
    tmp_path: Path, way: int, bad: Record
) -> None:
    good: list[Record] = [sample(seconds=2), scan(seconds=2), sample("B", seconds=-2)]
    async with opened(tmp_path, way) as telemetry:
        await store(telemetry, [sample(), scan()])
        with pytest.raises(Unstorable, match="cannot be stored"):
            await store(telemetry, [*good, bad, sample(seconds=3)])
        assert (await all_samples(telemetry), await all_scans(telemetry)) == ([sample()], [scan()])
        assert await store(telemetry, [*good, good[0]]) == [True, True, True, False]
        assert await all_samples(telemetry) == [sample(), sample(seconds=2)]
    async with opened(tmp_path) as telemetry:
        assert await all_samples(telemetry) == [sample(), sample(seconds=2)]
        assert await all_scans(telemetry) == [scan(), scan(seconds=2)]
        assert await all_samples(telemetry, "B") == [sample("B", seconds=-2)]


# --- deleting --------------------------------------------------------------------------------------


async def test_a_purge_takes_all_of_one_agent_and_nothing_else(tmp_path: Path) -> None:
    batch: list[Record] = [sample(), sample(seconds=-1), scan(), sample("B"), scan("B")]
    async with opened(tmp_path) as telemetry:
        for record in batch:
            await store(telemetry, [record])
    async with opened(tmp_path) as telemetry:
        await telemetry.purge("A")
        assert not await telemetry.has("A")
        assert await telemetry.has("B")
        assert await store(telemetry, batch) == [True, True, True, False, False]
        assert await store(telemetry, batch) == [False] * 5
    async with opened(tmp_path) as telemetry:
        assert await store(telemetry, batch) == [False] * 5


async def test_retention_takes_what_is_older_of_each_kind_by_itself(telemetry: DuckDBTelemetry) -> None:
    await store(telemetry, [*(sample(seconds=n) for n in range(5)), *(scan(seconds=n) for n in range(5))])
    await telemetry.forget(samples_before=at(2), scans_before=at(4))
    assert await all_samples(telemetry) == [sample(seconds=n) for n in (2, 3, 4)]
    assert await all_scans(telemetry) == [scan(seconds=4)]
    assert await store(telemetry, [sample(seconds=1), sample(seconds=2), sample(seconds=5)]) == [
        True,
        False,
        True,
    ]


async def test_an_agent_is_had_when_it_has_a_sample_or_a_scan(telemetry: DuckDBTelemetry) -> None:
    await store(telemetry, [sample("A"), scan("B"), scan("C", hosts=0)])
    assert [await telemetry.has(agent_id) for agent_id in "ABCD"] == [True, True, True, False]
    assert await telemetry.samples("D", Span()) == []
    assert await telemetry.scans("D", Span()) == []


async def test_a_session_that_cannot_even_be_cleaned_up_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(session: _Session, *_: object) -> None:
        raise duckdb.IOException("no more")

    async with opened(tmp_path, NEVER_JOURNALED) as telemetry:
        await store(telemetry, [sample()])
        with monkeypatch.context() as broken:
            broken.setattr(_Session, "settle", fail)
            broken.setattr(_Session, "discard", fail)
            broken.setattr(_Session, "take", fail)
            with pytest.raises(Unavailable):
                await store(telemetry, [sample(seconds=1)])
        assert await store(telemetry, [sample(), sample(seconds=1)]) == [False, True]
        assert len(await all_samples(telemetry)) == 2


async def test_a_stop_with_a_broken_disk_is_an_end_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = await DuckDBTelemetry.open(tmp_path / "analytics.duckdb")
    close = Database.close

    def fail(database: Database) -> None:
        close(database)
        raise duckdb.IOException("no more")

    monkeypatch.setattr(Database, "close", fail)
    await store.close()
    assert "not closed cleanly" in caplog.text
