"""Group commit: everything is committed, together when it waits, and one bad message stops nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pingup.codec.limits import MAX_EXTRA_BYTES
from pingup.crew import Crew
from pingup.errors import Reason, Rejected, Unavailable
from pingup.model import Deposit, Host, Inbound, Record, Sample, Scan
from pingup.ports import TelemetryStore
from pingup.services.batching import Batch, Batcher, Offer, Stored
from pingup.storage.duckdb import DuckDBTelemetry
from pingup.topics import Kind
from tests.fakes import MemoryTelemetry

START = datetime(2026, 2, 25, 10, tzinfo=UTC)


def sample(number: int) -> Sample:
    return Sample("a", START + timedelta(seconds=number), float(number), None, None, None, "online")


INBOUND = Inbound(Kind.METRICS, "a", b"", START, "here")


class Witness:
    """Keeps what is announced, and tells of each offer what became of it."""

    def __init__(self) -> None:
        self.stored: list[Stored] = []

    def announce(self, stored: Stored) -> None:
        self.stored.append(stored)

    def fate(self, offered: Offer) -> list[bool] | None:
        for stored in self.stored:
            is_new = iter(stored.is_new)
            for one in stored.offers:
                flags = [next(is_new) for _ in one.records]
                if one is offered:
                    return flags
        return None


class Witnessed(Batcher):
    """A batcher of which a test sees everything."""

    def __init__(self, store: TelemetryStore, **bounds: int) -> None:
        self.witness = Witness()
        super().__init__(store, self.witness.announce, **bounds)


def offer(batcher: Witnessed, records: tuple[Record, ...]) -> asyncio.Task[list[bool]]:
    """Offer it now; the task tells what became of it."""
    offered = Offer(INBOUND, records)
    return asyncio.create_task(_fate(batcher, offered, batcher.offer(offered)))


async def _fate(batcher: Witnessed, offered: Offer, batch: Batch) -> list[bool]:
    await asyncio.wait([batch.settled])
    for one, refusal in batch.refused:
        if one is offered:
            raise refusal
    flags = batcher.witness.fate(offered)
    if flags is None:
        problem = batch.settled.exception()
        assert problem is not None
        raise problem
    return flags


@asynccontextmanager
async def batching(
    store: MemoryTelemetry, *, max_batch_rows: int = 100, max_waiting_rows: int = 1000
) -> AsyncIterator[Witnessed]:
    batcher = Witnessed(store, max_batch_rows=max_batch_rows, max_waiting_rows=max_waiting_rows)
    async with Crew.open() as crew, asyncio.timeout(5):
        running = crew.create_task(batcher.run())
        yield batcher
        batcher.close()
        store.gate.set()
        await running


async def test_a_lone_message_is_committed_at_once() -> None:
    store = MemoryTelemetry()
    async with batching(store) as batcher:
        assert await offer(batcher, (sample(1),)) == [True]
        assert store.batches == [[sample(1)]]


async def test_what_waits_during_a_commit_is_committed_together() -> None:
    store = MemoryTelemetry()
    store.gate.clear()
    async with batching(store) as batcher:
        first = offer(batcher, (sample(0),))
        await store.entered.wait()
        rest = [offer(batcher, (sample(number),)) for number in range(1, 50)]
        store.gate.set()
        await asyncio.gather(first, *rest)
        assert [len(batch) for batch in store.batches] == [1, 49]


async def test_what_comes_within_a_moment_after_a_commit_is_committed_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pingup.services.batching._APART", 0.2)
    store = MemoryTelemetry()
    async with batching(store) as batcher:
        await offer(batcher, (sample(1),))
        early = offer(batcher, (sample(2),))
        for _ in range(10):
            await asyncio.sleep(0)
        late = offer(batcher, (sample(3),))
        await asyncio.gather(early, late)
        assert store.batches == [[sample(1)], [sample(2), sample(3)]]


async def test_where_many_rows_wait_a_commit_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pingup.services.batching._APART", 60.0)
    store = MemoryTelemetry()
    async with batching(store, max_batch_rows=1000) as batcher:
        await offer(batcher, (sample(0),))
        await offer(batcher, tuple(sample(number) for number in range(1, 501)))
        assert [len(batch) for batch in store.batches] == [1, 500]


async def test_each_sender_learns_which_of_its_records_were_new() -> None:
    store = MemoryTelemetry()
    async with batching(store) as batcher:
        await offer(batcher, (sample(1), sample(2)))
        both = offer(batcher, (sample(2), sample(3))), offer(batcher, (sample(1),))
        assert list(await asyncio.gather(*both)) == [[False, True], [False]]


async def test_nothing_is_told_before_the_commit() -> None:
    store = MemoryTelemetry()
    store.gate.clear()
    async with batching(store) as batcher:
        offered = offer(batcher, (sample(1),))
        await store.entered.wait()
        assert not offered.done()
        store.gate.set()
        assert await offered == [True]


async def test_senders_wait_when_too_much_waits() -> None:
    store = MemoryTelemetry()
    store.gate.clear()
    async with batching(store, max_batch_rows=2, max_waiting_rows=4) as batcher:
        offers = [offer(batcher, (sample(0),))]
        await store.entered.wait()
        offers += [offer(batcher, (sample(number),)) for number in range(1, 5)]
        waiter = asyncio.ensure_future(batcher.room())
        await asyncio.sleep(0)
        assert not waiter.done()
        store.gate.set()
        await waiter
        await asyncio.gather(*offers)


async def test_a_message_that_cannot_be_stored_is_refused_and_stops_no_other() -> None:
    store = MemoryTelemetry()
    store.poison = {sample(13)}
    store.gate.clear()
    async with batching(store) as batcher:
        offers = [offer(batcher, (sample(number),)) for number in range(32)]
        await store.entered.wait()
        store.gate.set()
        outcomes = await asyncio.gather(*offers, return_exceptions=True)
        refused = outcomes.pop(13)
        assert isinstance(refused, Rejected)
        assert refused.reason is Reason.INTERNAL
        assert outcomes == [[True]] * 31
        assert set(store.records) == {sample(number) for number in range(32)} - {sample(13)}


async def test_an_outage_of_the_store_loses_nothing() -> None:
    store = MemoryTelemetry()
    store.down = "disk full"
    async with batching(store) as batcher:
        offered = offer(batcher, (sample(1),))
        await store.failed_twice.wait()
        assert batcher.problem == "disk full"
        assert not offered.done()
        store.down = None
        assert await offered == [True]
        assert batcher.problem is None


async def test_what_is_too_much_for_the_store_at_once_is_committed_in_parts() -> None:
    class SmallStore(MemoryTelemetry):
        async def store(self, deposit: Deposit) -> list[bool]:
            if len(deposit.records) > 8:
                raise Unavailable("out of memory")
            return await super().store(deposit)

    async with batching(SmallStore()) as batcher:
        offers = [offer(batcher, (sample(number),)) for number in range(20)]
        assert await asyncio.gather(*offers) == [[True]] * 20
        assert batcher.problem is None


async def test_a_backlog_of_the_widest_samples_does_not_stop_the_server_nor_when_it_comes_again(
    tmp_path: Path,
) -> None:
    noise = Random(0)
    wide = [
        msgspec.structs.replace(sample(number), extra=noise.randbytes(MAX_EXTRA_BYTES // 2).hex())
        for number in range(3000)
    ]
    async with await DuckDBTelemetry.open(tmp_path / "analytics.duckdb") as store, Crew.open() as crew:
        batcher = Witnessed(store)
        running = crew.create_task(batcher.run())
        for expected in (True, False):
            async with asyncio.timeout(30):
                offers = [offer(batcher, (one,)) for one in wide]
                assert await asyncio.gather(*offers) == [[expected]] * len(wide)
        batcher.close()
        await running


def test_a_large_record_counts_as_several_rows() -> None:
    async def rows(record: Record) -> int:
        batcher = Witnessed(MemoryTelemetry())
        offer(batcher, (record,))
        return batcher._waiting_rows

    plain = Host("10.0.0.1", 1, (22, 80))
    crowded = Host("10.0.0.2", 1, tuple(range(10_000)))
    assert asyncio.run(rows(sample(1))) == 1
    assert asyncio.run(rows(msgspec.structs.replace(sample(1), extra="x" * 5120))) == 11
    assert asyncio.run(rows(Scan("a", START, 1, ()))) == 1
    assert asyncio.run(rows(Scan("a", START, 1, (plain, plain)))) == 2
    assert asyncio.run(rows(Scan("a", START, 1, (plain, crowded)))) > 100


async def test_a_message_without_records_is_committed_in_its_turn_and_takes_its_room() -> None:
    store = MemoryTelemetry()
    store.gate.clear()
    async with batching(store, max_waiting_rows=4) as batcher:
        offers = [offer(batcher, ())]
        await store.entered.wait()
        offers += [offer(batcher, ()), offer(batcher, (sample(1),)), offer(batcher, ())]
        assert batcher._waiting_rows == 3
        store.gate.set()
        assert await asyncio.gather(*offers) == [[], [], [True], []]


async def test_a_stop_commits_what_waits() -> None:
    store = MemoryTelemetry()
    async with batching(store, max_batch_rows=3) as batcher:
        offers = [offer(batcher, (sample(number),)) for number in range(10)]
    assert await asyncio.gather(*offers) == [[True]] * 10


async def test_a_stop_during_an_outage_tells_senders_that_nothing_was_stored() -> None:
    store = MemoryTelemetry()
    store.down = "disk full"
    async with batching(store, max_batch_rows=3) as batcher:
        offers = [offer(batcher, (sample(number),)) for number in range(10)]
    outcomes = await asyncio.gather(*offers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 10


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=25),
    poison=st.sets(st.integers(0, 60), max_size=5),
    rows=st.integers(1, 12),
)
def test_whatever_is_poisonous_everything_else_is_stored_once(
    sizes: list[int], poison: set[int], rows: int
) -> None:
    async def check() -> None:
        store = MemoryTelemetry()
        store.poison = {sample(number) for number in poison}
        numbers = iter(range(1000))
        offers = [[sample(next(numbers)) for _ in range(size)] for size in sizes]
        async with batching(store, max_batch_rows=rows) as batcher:
            futures = [offer(batcher, tuple(records)) for records in offers]
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
        good = [records for records in offers if not store.poison.intersection(records)]
        assert store.records == [record for records in good for record in records]
        refused = [outcome for outcome in outcomes if isinstance(outcome, Rejected)]
        assert len(refused) == len(offers) - len(good)

    asyncio.run(check())


async def test_a_sender_that_gave_up_harms_nobody() -> None:
    store = MemoryTelemetry()
    store.gate.clear()
    async with batching(store) as batcher:
        gone, there = offer(batcher, (sample(1),)), offer(batcher, (sample(2),))
        await store.entered.wait()
        gone.cancel()
        store.gate.set()
        assert await there == [True]
    with pytest.raises(asyncio.CancelledError):
        gone.result()
