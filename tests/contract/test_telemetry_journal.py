"""Small deposits go into the journal first: nobody sees a difference, whatever is killed or fails when."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from pingup.errors import Unstorable, Unusable
from pingup.model import Deposit, Fate, Run, Sample, Span
from pingup.rollups import Aggregate, Rollup
from pingup.storage.duckdb import DuckDBTelemetry, take_journal
from tests.contract.telemetry_examples import (
    NEVER_JOURNALED,
    all_samples,
    at,
    crashed,
    opened,
    sample,
    scan,
    start_process,
    store,
)
from tests.contract.test_telemetry_store import UNSTORABLE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "analytics.duckdb"


class JournalFile:
    """The file of the journal, as it is now."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def size(self) -> int:
        """In bytes; 0 when there is none."""
        return self._path.stat().st_size if self._path.exists() else 0

    def read(self) -> bytes:
        return self._path.read_bytes()

    def write(self, content: bytes) -> None:
        self._path.write_bytes(content)


@pytest.fixture
def journal(tmp_path: Path) -> JournalFile:
    return JournalFile(tmp_path / "analytics.journal")


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the journal stays there until something else than time brings it into the tables."""
    monkeypatch.setattr("pingup.storage.duckdb.telemetry._APPLY_AFTER", 3600)


@pytest.fixture
async def telemetry(tmp_path: Path, unhurried: None) -> AsyncIterator[DuckDBTelemetry]:
    async with opened(tmp_path) as store:
        yield store


def numbered(seq: int) -> Deposit:
    moment = at(seq)
    return Deposit((sample(seconds=seq),), (Run("A", "s", Fate.STORED, seq, seq, 1, moment, moment, moment),))


def rows(file: Path) -> int:
    with duckdb.connect(file) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM metrics").fetchall()
    return int(count)


async def stored_seqs(telemetry: DuckDBTelemetry) -> set[int]:
    return {seq for one in await telemetry.runs() for seq in range(one.low, one.high + 1)}


# --- what one sees -----------------------------------------------------------------------------------


async def first_page(telemetry: DuckDBTelemetry) -> int:
    return len(await telemetry.samples("A", Span()))


async def first_bucket(telemetry: DuckDBTelemetry) -> int:
    rollup = Rollup(timedelta(hours=1), ("cpu",), (Aggregate.AVG,))
    return sum(bucket.count for bucket in await telemetry.buckets("A", rollup))


async def newest_of_one(telemetry: DuckDBTelemetry) -> int:
    return len(await telemetry.newest_samples(["B", "A"]))


async def newest_of_all(telemetry: DuckDBTelemetry) -> int:
    return len(await telemetry.newest_samples())


async def whether_any(telemetry: DuckDBTelemetry) -> int:
    return await telemetry.has("A")


async def newest_moment(telemetry: DuckDBTelemetry) -> int:
    return await telemetry.newest() == at(1)


async def number_of_runs(telemetry: DuckDBTelemetry) -> int:
    return len(await telemetry.runs())


@pytest.mark.parametrize(
    "ask",
    [
        first_page,
        first_bucket,
        newest_of_one,
        newest_of_all,
        whether_any,
        newest_moment,
        number_of_runs,
    ],
)
async def test_a_read_sees_what_was_stored_the_moment_before(
    telemetry: DuckDBTelemetry, journal: JournalFile, ask: Callable[[DuckDBTelemetry], Awaitable[int]]
) -> None:
    assert await ask(telemetry) == 0
    await telemetry.store(numbered(1))
    assert journal.size > 0
    assert await ask(telemetry) == 1
    assert journal.size == 0


async def test_a_repeat_of_what_is_only_in_the_journal_is_told(
    telemetry: DuckDBTelemetry, journal: JournalFile
) -> None:
    assert await store(telemetry, [sample(), sample(), sample("B", -1)]) == [True, False, True]
    assert journal.size > 0
    assert await store(telemetry, [sample(), sample("B", -1), sample(seconds=1)]) == [False, False, True]
    assert await store(telemetry, [sample(seconds=2)]) == [True]
    assert await store(telemetry, [scan(), sample(seconds=2)]) == [True, False]
    assert await all_samples(telemetry) == [sample(), sample(seconds=1), sample(seconds=2)]


async def test_records_of_one_moment_come_in_the_order_of_their_storing(telemetry: DuckDBTelemetry) -> None:
    some = [sample(cpu=cpu) for cpu in (3.0, 1.0, 2.0)]
    for one in some:
        assert await store(telemetry, [one]) == [True]
    assert await all_samples(telemetry) == some


@pytest.mark.usefixtures("unhurried")
async def test_after_a_clean_stop_only_the_database_is_there(tmp_path: Path, journal: JournalFile) -> None:
    async with opened(tmp_path) as telemetry:
        assert os.listdir(tmp_path) == ["analytics.duckdb"]
        await telemetry.store(numbered(1))
        assert journal.size > 0
    assert os.listdir(tmp_path) == ["analytics.duckdb"]
    async with opened(tmp_path) as telemetry:
        assert await all_samples(telemetry) == [sample(seconds=1)]
        await store(telemetry, [])
    assert os.listdir(tmp_path) == ["analytics.duckdb"]


async def test_what_is_in_the_journal_is_soon_in_the_tables_without_anybody_asking(
    tmp_path: Path, file: Path, journal: JournalFile
) -> None:
    async with opened(tmp_path) as telemetry:
        for seq in (1, 2):
            await telemetry.store(numbered(seq))
            assert journal.size > 0
            async with asyncio.timeout(20):
                while journal.size > 0:  # noqa: ASYNC110 - there is no event: nobody asks
                    await asyncio.sleep(0.01)
            copy = await crashed(telemetry, tmp_path)
            assert rows(copy / file.name) == seq
            shutil.rmtree(copy)


async def test_much_is_in_the_tables_before_it_gets_more(
    telemetry: DuckDBTelemetry, journal: JournalFile
) -> None:
    sizes = []
    for start in range(0, 9000, 900):
        assert all(await store(telemetry, [sample(seconds=start + n) for n in range(900)]))
        sizes.append(journal.size)
    assert 0 in sizes[1:]
    assert max(sizes) < 2_000_000
    assert len(await all_samples(telemetry)) == 9000


# --- values that cannot be stored ----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [one for one in UNSTORABLE if isinstance(one, Sample)])
async def test_what_no_column_can_hold_never_enters_the_journal(
    telemetry: DuckDBTelemetry, journal: JournalFile, bad: Sample
) -> None:
    await store(telemetry, [sample()])
    before = journal.read()
    with pytest.raises(Unstorable, match="cannot be stored"):
        await store(telemetry, [sample(seconds=2), bad, sample("B", 3)])
    assert journal.read() == before
    later = [sample(seconds=2), sample("B", 3)]
    assert await store(telemetry, later) == [True, True]
    assert await store(telemetry, [sample(), *later]) == [False, False, False]
    assert await all_samples(telemetry) == [sample(), sample(seconds=2)]


# --- crashes -----------------------------------------------------------------------------------------

# Does some of what can be done, tells of it, and ends when stdin does; time brings nothing into the tables.
DOING = """
import asyncio, os, sys
from pathlib import Path
from pingup.storage.duckdb import JOURNALED_BELOW, DuckDBTelemetry, telemetry
from pingup.storage.journal import Journal
from tests.contract.telemetry_examples import all_samples, sample, store
from tests.contract.test_telemetry_journal import numbered

async def purge(telemetry):
    await telemetry.purge("A")

async def apply_and_die(telemetry):
    Journal.clear = lambda journal: os.kill(os.getpid(), 9)
    await all_samples(telemetry)

async def main():
    telemetry = await DuckDBTelemetry.open(Path(sys.argv[1]), journaled_below=JOURNALED_BELOW)
    for seq in range(1, 21):
        await telemetry.store(numbered(seq))
        await store(telemetry, [sample("B", seq)])
    if len(sys.argv) > 2:
        await globals()[sys.argv[2]](telemetry)
    print("done", flush=True)
    sys.stdin.read()

telemetry._APPLY_AFTER = 3600
asyncio.run(main())
"""


def do_and_kill(file: Path, *what: str) -> None:
    with start_process(DOING, file, *what) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        process.kill()


async def check_all_twenty(tmp_path: Path, file: Path) -> None:
    async with opened(tmp_path) as telemetry:
        assert telemetry.quarantined is None
        assert await stored_seqs(telemetry) == set(range(1, 21))
        for agent in ("A", "B"):
            assert await all_samples(telemetry, agent) == [sample(agent, seq) for seq in range(1, 21)]
        assert await store(telemetry, [sample(seconds=20), sample(seconds=21)]) == [False, True]
    assert os.listdir(tmp_path) == ["analytics.duckdb"]
    assert rows(file) == 41


async def test_samples_and_numbers_are_there_after_kill_9(
    tmp_path: Path, file: Path, journal: JournalFile
) -> None:
    do_and_kill(file)
    assert journal.size > 1000
    await check_all_twenty(tmp_path, file)


async def test_kill_9_between_the_commit_and_the_clearing_doubles_nothing(
    tmp_path: Path, file: Path, journal: JournalFile
) -> None:
    with start_process(DOING, file, "apply_and_die") as process:
        assert process.wait() == -9
    assert journal.size > 1000
    await check_all_twenty(tmp_path, file)


async def test_a_journal_that_was_stored_already_doubles_nothing(
    tmp_path: Path, file: Path, journal: JournalFile
) -> None:
    do_and_kill(file)
    for _ in range(2):
        kept = journal.read()
        async with opened(tmp_path) as telemetry:
            assert len(await all_samples(telemetry)) == 20
        journal.write(kept)
    await check_all_twenty(tmp_path, file)


async def test_a_purge_is_not_undone_by_kill_9(tmp_path: Path, file: Path) -> None:
    do_and_kill(file, "purge")
    async with opened(tmp_path) as telemetry:
        assert not await telemetry.has("A")
        assert await telemetry.runs() == []
        assert len(await all_samples(telemetry, "B")) == 20
    assert rows(file) == 20


@pytest.mark.usefixtures("unhurried")
async def test_what_a_purge_takes_is_stored_when_it_comes_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as telemetry:
        await telemetry.store(numbered(1))
        await telemetry.purge("A")
        assert await telemetry.samples("A", Span()) == []
        await telemetry.store(numbered(1))
        copy = await crashed(telemetry, tmp_path)
    async with opened(copy) as telemetry:
        assert await all_samples(telemetry) == [sample(seconds=1)]
        assert await stored_seqs(telemetry) == {1}


async def test_retention_takes_what_is_only_in_the_journal(telemetry: DuckDBTelemetry) -> None:
    for seq in range(1, 5):
        await telemetry.store(numbered(seq))
    await telemetry.forget(at(3), at(3))
    assert await all_samples(telemetry) == [sample(seconds=3), sample(seconds=4)]


async def test_a_stream_heard_of_the_moment_before_is_not_forgotten(telemetry: DuckDBTelemetry) -> None:
    await telemetry.store(numbered(1))
    assert await stored_seqs(telemetry) == {1}
    await telemetry.store(numbered(9))
    await telemetry.forget(at(5), at(5))
    assert await stored_seqs(telemetry) == {1, 9}


async def test_who_wants_no_journal_any_more_loses_nothing_of_it(tmp_path: Path, file: Path) -> None:
    do_and_kill(file)
    async with opened(tmp_path, NEVER_JOURNALED) as store:
        assert (len(await all_samples(store)), len(await stored_seqs(store))) == (20, 20)


async def test_migrate_brings_in_what_a_crash_has_left(tmp_path: Path, file: Path) -> None:
    do_and_kill(file)
    assert take_journal(file)
    assert os.listdir(tmp_path) == ["analytics.duckdb"]
    assert not take_journal(file)
    async with opened(tmp_path) as telemetry:
        assert len(await all_samples(telemetry)) == 20
        assert {seq for run in await telemetry.runs() for seq in range(run.low, run.high + 1)} == set(
            range(1, 21)
        )


# --- damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.33, 0.99])
@pytest.mark.parametrize("flip", [True, False], ids=["flipped", "cut"])
async def test_a_damaged_journal_is_kept_aside_and_everything_before_is_stored(
    tmp_path: Path, file: Path, journal: JournalFile, *, share: float, flip: bool
) -> None:
    do_and_kill(file)
    content = journal.read()
    place = 18 + int(share * (len(content) - 18))
    rest = bytes([content[place] ^ 0xFF]) + content[place + 1 :] if flip else b""
    journal.write(content[:place] + rest)
    async with opened(tmp_path) as telemetry:
        aside = telemetry.quarantined
        assert aside is not None
        assert aside.name.startswith("analytics.journal.damaged-")
        assert aside.read_bytes() == content[:place] + rest
        found = await all_samples(telemetry)
        before = int(20 * share) - 1
        assert found[:before] == [sample(seconds=n) for n in range(1, before + 1)]
        # Behind a changed byte there are entries that are whole.
        assert len(found) >= 19 if flip and share else len(found) <= before + 3
    assert sorted(os.listdir(tmp_path)) == ["analytics.duckdb", aside.name]
    async with opened(tmp_path) as telemetry:
        assert telemetry.quarantined is None
        await store(telemetry, [sample(seconds=n) for n in range(1, 21)])
    assert sorted(os.listdir(tmp_path)) == ["analytics.duckdb", aside.name]
    async with opened(tmp_path) as telemetry:
        assert telemetry.quarantined is None
        assert len(await all_samples(telemetry)) == 20


async def test_a_journal_of_another_version_is_refused_and_left_alone(
    tmp_path: Path, file: Path, journal: JournalFile
) -> None:
    content = b"pingup journal 2\nsomething"
    async with opened(tmp_path) as telemetry:
        await store(telemetry, [sample()])
    journal.write(content)
    with pytest.raises(Unusable, match="another version"):
        await DuckDBTelemetry.open(file)
    assert journal.read() == content
    (tmp_path / "analytics.journal").unlink()
    async with opened(tmp_path) as telemetry:
        assert await all_samples(telemetry) == [sample()]
