"""Which numbered messages came is stored with what they brought, all or nothing, and in bounded room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pingup.errors import Unstorable
from pingup.model import Deposit, Fate, Record, Run
from pingup.services.ledger import MAX_STREAMS, Ledger
from pingup.services.numbering import merged
from pingup.storage.duckdb import DuckDBTelemetry, sequences
from pingup.storage.duckdb.sequences import MAX_STORED_RUNS, Sequences
from pingup.storage.duckdb.writer import JOURNALED_BELOW
from tests.contract.telemetry_examples import (
    NEVER_JOURNALED,
    all_samples,
    at,
    crashed,
    opened,
    sample,
    start_process,
    ways,
)

# Stores one numbered sample after the other and tells of each once it is committed; ends when stdin does.
STORING = """
import asyncio, sys
from pathlib import Path
from pingup.storage.duckdb import DuckDBTelemetry
from tests.contract.test_telemetry_sequences import message

async def main():
    telemetry = await DuckDBTelemetry.open(Path(sys.argv[1]), journaled_below=int(sys.argv[2]))
    for seq in range(1, 21):
        await telemetry.store(message(seq))
        print(seq, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def run(low: int, end: int | None = None, **changes: object) -> Run:
    high = low if end is None else end
    return replace(Run("A", "s", Fate.STORED, low, high, 1, at(low), at(high), at(0)), **changes)


def deposit(records: Sequence[Record], *runs: Run) -> Deposit:
    return Deposit(records, runs)


def together(deposits: Sequence[Deposit]) -> Deposit:
    """In one transaction, as the batcher does it."""
    records = [record for one in deposits for record in one.records]
    return Deposit(records, merged([run for one in deposits for run in one.runs]))


def message(seq: int) -> Deposit:
    return deposit((sample(seconds=seq),), run(seq))


def refusal(seq: int) -> Deposit:
    return deposit((), run(seq, fate=Fate.REFUSED))


def numbers(runs: Sequence[Run], fate: Fate = Fate.STORED) -> list[int]:
    return sorted(seq for one in runs if one.fate is fate for seq in range(one.low, one.high + 1))


@pytest.fixture(params=[NEVER_JOURNALED, JOURNALED_BELOW], ids=["straight", "journaled"])
async def telemetry(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[DuckDBTelemetry]:
    async with opened(tmp_path, request.param) as store:
        yield store


@pytest.fixture
def compacts_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is compacted as soon as something was appended."""
    monkeypatch.setattr("pingup.storage.duckdb.writer.COMPACT_AT", 0)


async def compact(telemetry: DuckDBTelemetry) -> None:
    await telemetry._write(telemetry._writer.apply)
    await telemetry._write(telemetry._writer._compact)


# --- with the telemetry ----------------------------------------------------------------------------


async def test_consecutive_messages_of_one_commit_are_one_run(tmp_path: Path) -> None:
    async with opened(tmp_path) as telemetry:
        await telemetry.store(together([message(1), message(2), refusal(3), message(4), message(5)]))
        stored = [run(1, 2), run(3, fate=Fate.REFUSED), run(4, 5)]
        assert sorted(await telemetry.runs(), key=lambda one: one.low) == stored
    async with opened(tmp_path) as telemetry:
        assert sorted(await telemetry.runs(), key=lambda one: one.low) == stored


async def test_messages_without_numbers_leave_no_run(telemetry: DuckDBTelemetry) -> None:
    await telemetry.store(together([deposit((sample(),))]))
    assert await telemetry.runs() == []


async def test_a_message_without_records_is_stored_as_its_number(telemetry: DuckDBTelemetry) -> None:
    assert await telemetry.store(together([refusal(1)])) == []
    assert numbers(await telemetry.runs(), Fate.REFUSED) == [1]


async def test_a_repeat_settles_its_number_too(telemetry: DuckDBTelemetry) -> None:
    again = deposit(message(1).records, run(2))
    assert await telemetry.store(together([message(1)])) == [True]
    assert await telemetry.store(together([again, message(1)])) == [False, False]
    assert set(numbers(await telemetry.runs())) == {1, 2}


@pytest.mark.parametrize(
    "bad",
    [
        deposit((replace(sample(seconds=3), latency=3_000_000_000),), run(3)),
        deposit((sample(seconds=3),), run(3, stream="\ud800")),
        deposit((sample(seconds=3),), run(3, high=2**63)),
        deposit((sample(seconds=3),), run(3, first=2**63)),
    ],
)
async def test_a_batch_that_cannot_be_stored_leaves_neither_samples_nor_numbers(
    telemetry: DuckDBTelemetry, bad: Deposit
) -> None:
    await telemetry.store(together([message(1)]))
    with pytest.raises(Unstorable):
        await telemetry.store(together([message(2), bad]))
    assert (numbers(await telemetry.runs()), len(await all_samples(telemetry))) == ([1], 1)
    await telemetry.store(together([message(2)]))
    assert (numbers(await telemetry.runs()), len(await all_samples(telemetry))) == ([1, 2], 2)


@pytest.mark.parametrize("way", [NEVER_JOURNALED, JOURNALED_BELOW], ids=["straight", "journaled"])
async def test_numbers_are_there_after_kill_9_with_their_samples(tmp_path: Path, way: int) -> None:
    with start_process(STORING, tmp_path / "analytics.duckdb", way) as process:
        assert process.stdout is not None
        for seq in range(1, 21):
            assert process.stdout.readline() == f"{seq}\n"
        process.kill()
    async with opened(tmp_path) as telemetry:
        assert numbers(await telemetry.runs()) == list(range(1, 21))
        assert len(await all_samples(telemetry)) == 20


async def test_a_purge_takes_the_numbers_of_one_agent_and_nothing_else(telemetry: DuckDBTelemetry) -> None:
    await telemetry.store(together([message(1), deposit((), run(7, agent_id="B"))]))
    await telemetry.purge("A")
    assert [one.agent_id for one in await telemetry.runs()] == ["B"]


async def test_streams_of_which_nothing_was_heard_for_long_are_forgotten_whole(
    telemetry: DuckDBTelemetry,
) -> None:
    old, living = run(1, stream="old", received_at=at(1)), run(1, stream="living", received_at=at(1))
    await telemetry.store(together([deposit((), old), deposit((), living)]))
    await telemetry.store(together([deposit((), replace(living, low=3, high=3, received_at=at(9)))]))
    await telemetry.forget(samples_before=at(5), scans_before=at(20))
    assert {(one.stream, one.low) for one in await telemetry.runs()} == {("living", 1), ("living", 3)}


# --- compaction ------------------------------------------------------------------------------------


async def test_runs_that_touch_become_one_and_keep_the_times_of_their_ends(
    telemetry: DuckDBTelemetry,
) -> None:
    for one in (run(4, 6, first=2), run(1, 3, received_at=at(50)), run(5), run(9), run(2, fate=Fate.REFUSED)):
        await telemetry.store(together([deposit((), one)]))
    await compact(telemetry)
    merged = [run(2, fate=Fate.REFUSED), run(1, 6), run(9)]
    assert sorted(await telemetry.runs(), key=lambda one: (one.fate.value, one.low)) == [
        replace(one, first=2, received_at=at(50)) for one in merged
    ]


@pytest.mark.usefixtures("compacts_always")
async def test_the_table_stays_small_however_many_messages_come(tmp_path: Path) -> None:
    async with opened(tmp_path) as telemetry:
        for seq in range(1, 60):
            await telemetry.store(together([message(seq)]))
        assert len(await telemetry.runs()) <= 2
    async with opened(tmp_path) as telemetry:
        assert numbers(await telemetry.runs()) == list(range(1, 60))


async def test_of_an_agent_the_streams_heard_of_last_are_kept(telemetry: DuckDBTelemetry) -> None:
    streams = [run(1, stream=f"s{number}", received_at=at(number)) for number in range(MAX_STREAMS + 5)]
    await telemetry.store(together([deposit((), one) for one in (*streams, run(1, agent_id="B"))]))
    await compact(telemetry)
    kept = {one.stream for one in await telemetry.runs() if one.agent_id == "A"}
    assert kept == {f"s{number}" for number in range(5, MAX_STREAMS + 5)}
    assert {one.agent_id for one in await telemetry.runs()} == {"A", "B"}


async def test_of_a_stream_the_highest_runs_are_kept_and_the_ledger_knows_that_there_were_more(
    telemetry: DuckDBTelemetry,
) -> None:
    for start in range(0, 2 * MAX_STORED_RUNS, 2000):
        seqs = range(2 * start + 1, 2 * min(start + 2000, 2 * MAX_STORED_RUNS), 2)
        await telemetry.store(together([deposit((), run(seq, low_at=at(0), high_at=at(0))) for seq in seqs]))
    await compact(telemetry)
    runs = await telemetry.runs()
    assert (len(runs), max(one.low for one in runs)) == (MAX_STORED_RUNS, 4 * MAX_STORED_RUNS - 1)
    ledger = Ledger()
    ledger.load(runs)
    (stream,) = ledger.streams("A")
    assert stream.stored.floor == min(one.low for one in runs)


async def test_a_large_fleet_is_compacted_in_parts(
    telemetry: DuckDBTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "COMPACTED_AT_ONCE", 10)
    fleet = [f"agent-{number}" for number in range(30)]
    for seq in (1, 2, 3):
        await telemetry.store(Deposit((), [run(seq, agent_id=one) for one in fleet]))
    await compact(telemetry)
    assert sorted((one.agent_id, one.low, one.high) for one in await telemetry.runs()) == sorted(
        (agent_id, 1, 3) for agent_id in fleet
    )


async def test_a_compaction_that_fails_stops_nobody_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise duckdb.OutOfMemoryException("no more")

    async with opened(tmp_path, NEVER_JOURNALED) as telemetry:
        await telemetry.store(together([message(1)]))
        monkeypatch.setattr(telemetry._writer, "_compact_at", 1)
        with monkeypatch.context() as broken:
            broken.setattr(Sequences, "compact", fail)
            assert await telemetry.store(together([message(2)])) == [True]
            assert "compacted later" in caplog.text
            assert await telemetry.store(together([message(3)])) == [True]
        for seq in range(4, 8):
            assert await telemetry.store(together([message(seq)])) == [True]
        assert numbers(await telemetry.runs()) == list(range(1, 8))
        assert len(await telemetry.runs()) < 7


# --- the ledger over the store ---------------------------------------------------------------------

RESTART, CRASH, COMPACT = "restart", "crash", "compact"
fates = st.sampled_from(list(Fate))
deposits = st.builds(
    lambda seq, fate, first: deposit((), run(seq, fate=fate, first=first, low_at=at(0), high_at=at(0))),
    st.integers(1, 12),
    fates,
    st.sampled_from([1, 1, 1, 4, 9]),
)
steps = st.lists(
    st.one_of(st.lists(deposits, min_size=1, max_size=6), st.sampled_from([RESTART, CRASH, COMPACT])),
    max_size=10,
)


@settings(deadline=None, max_examples=25)
@given(steps, ways)
def test_what_is_settled_survives_every_restart_and_is_never_more_than_what_came(
    steps: list[list[Deposit] | str], way: int
) -> None:
    asyncio.run(_compare_with_a_set([*steps, RESTART], way))


async def _compare_with_a_set(steps: list[list[Deposit] | str], way: int) -> None:
    done, first, ledger = set[int](), 1, Ledger()
    with TemporaryDirectory() as root:
        directory, pending = Path(root), list(steps)
        while pending:
            async with opened(directory, way) as telemetry:
                ledger = Ledger()
                ledger.load(await telemetry.runs())
                _check(ledger, done, first)
                while pending and (step := pending.pop(0)) != RESTART:
                    if step == CRASH:
                        directory = await crashed(telemetry, directory)
                        break
                    if isinstance(step, str):
                        await compact(telemetry)
                        continue
                    await telemetry.store(together(step))
                    for one in (one for deposit in step for one in deposit.runs):
                        ledger.settle(one)
                        done.add(one.low)
                        first = max(first, one.first)
                    _check(ledger, done, first)


def _check(ledger: Ledger, done: set[int], first: int) -> None:
    streams = ledger.streams("A")
    if not done:
        assert streams == []
        return
    assert streams[0].settled == next(seq - 1 for seq in range(first, 99) if seq not in done)
    assert streams[0].first == first
