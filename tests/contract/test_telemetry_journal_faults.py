"""The journal beside disks and a database that fail, and odd values: nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import os
import sys
from errno import EIO
from pathlib import Path
from subprocess import PIPE, run
from tempfile import TemporaryDirectory

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pingup.errors import Unavailable, Unstorable
from pingup.model import Deposit, Fate, Run, Sample
from pingup.storage.duckdb import migrate
from pingup.storage.duckdb.writer import _Session
from tests.contract.telemetry_examples import (
    ROOT,
    all_samples,
    at,
    crashed,
    opened,
    sample,
    start_process,
    store,
)
from tests.mosquitto import find_program


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "analytics.duckdb"


async def check_twelve(directory: Path) -> None:
    """Samples 0 to 11 of two agents are there, once, beside the copy of a journal that was cut short."""
    async with opened(directory) as telemetry:
        for agent in ("A", "B"):
            assert await all_samples(telemetry, agent) == [sample(agent, n) for n in range(12)]
    assert [name for name in os.listdir(directory) if ".damaged-" not in name] == ["analytics.duckdb"]
    with duckdb.connect(directory / "analytics.duckdb") as connection:
        assert connection.execute("SELECT count(*) FROM metrics").fetchall() == [(24,)]


# --- disks that fail ---------------------------------------------------------------------------------

# Fills the disk while five pairs of samples are in the journal only; ends without an end, at once or later.
FILLING = """
import asyncio, os, resource, sys
from pathlib import Path
from pingup.errors import Unavailable
from pingup.storage.duckdb import JOURNALED_BELOW, DuckDBTelemetry, telemetry
from tests.contract.telemetry_examples import all_samples, sample, store

def allow(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def tell(attempt):
    try:
        print(await attempt, flush=True)
    except Unavailable:
        print("unavailable", flush=True)

async def main(file):
    telemetry = await DuckDBTelemetry.open(file, journaled_below=JOURNALED_BELOW)
    journal = file.with_suffix(".journal")
    for seconds in range(12):
        pair = [sample(seconds=seconds), sample("B", seconds)]
        if seconds == 5:
            allow(1)
            await tell(store(telemetry, pair))
            await tell(telemetry.check())
            await tell(telemetry.purge("A"))
            if sys.argv[2] == "at once":
                os._exit(0)
            allow(resource.RLIM_INFINITY)
            await telemetry.check()
        assert await store(telemetry, pair) == [True, True]
    print("journaled" if journal.stat().st_size else "not journaled", flush=True)
    os._exit(0)

telemetry._APPLY_AFTER = 3600
asyncio.run(main(Path(sys.argv[1])))
"""


async def test_what_is_in_the_journal_outlives_a_full_disk_and_a_crash(tmp_path: Path, file: Path) -> None:
    with start_process(FILLING, file, "at once") as process:
        said, _ = process.communicate()
    assert said.splitlines() == ["unavailable"] * 3
    async with opened(tmp_path) as telemetry:
        assert await all_samples(telemetry) == [sample(seconds=n) for n in range(5)]
        assert not any(await store(telemetry, [sample("B", n) for n in range(5)]))
        for seconds in range(5, 12):
            await store(telemetry, [sample(seconds=seconds), sample("B", seconds)])
    await check_twelve(tmp_path)


async def test_after_a_full_disk_the_journal_is_used_again(tmp_path: Path, file: Path) -> None:
    with start_process(FILLING, file, "later") as process:
        said, _ = process.communicate()
    assert said.splitlines() == ["unavailable"] * 3 + ["journaled"]
    await check_twelve(tmp_path)


# Stores twelve pairs of samples, reads in between, and says of each whether it went into the journal; ends
# without an end.
JOURNALING = """
import asyncio, os, sys
from pathlib import Path
from pingup.errors import Unavailable
from pingup.storage.duckdb import JOURNALED_BELOW, DuckDBTelemetry, telemetry
from tests.contract.telemetry_examples import all_samples, sample, store

async def main(file):
    telemetry = await DuckDBTelemetry.open(file, journaled_below=JOURNALED_BELOW)
    journal = file.with_suffix(".journal")
    for seconds in range(12):
        while True:
            before = journal.stat().st_size if journal.exists() else 0
            try:
                flags = await store(telemetry, [sample(seconds=seconds), sample("B", seconds)])
                break
            except Unavailable:
                print("unavailable")
        # What was committed just before the disk failed is told as a repeat.
        assert flags in ([True, True], [False, False])
        print("journaled" if journal.exists() and journal.stat().st_size > before else "straight")
        if seconds % 4 == 3:
            try:
                assert len(await all_samples(telemetry)) > seconds - 4
            except Unavailable:
                print("unavailable")
    sys.stdout.flush()
    os._exit(0)

telemetry._APPLY_AFTER = 3600
asyncio.run(main(Path(sys.argv[1])))
"""


def said_with_fault(file: Path, victim: Path, call: str, fault: str) -> list[str]:
    """What that program says while a system call on one file fails now and then."""
    trace = file.with_name("trace")
    strace = [find_program("strace"), "-f", "-o", str(trace), "-P", str(victim), "-e", f"trace={call}"]
    command = [*strace, "-e", f"inject={call}:{fault}", sys.executable, "-c", JOURNALING, str(file)]
    said = run(command, cwd=ROOT, stdout=PIPE, text=True, check=True, timeout=50).stdout.splitlines()
    assert "(INJECTED)" in trace.read_text()
    trace.unlink()
    return said


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("fdatasync", "error=EIO:when=3+3"),
        # The second of these is that of clearing.
        ("fdatasync", "error=EIO:when=3..4"),
        ("write", "error=ENOSPC:when=3+3"),
        ("ftruncate", "error=EIO:when=1+2"),
        ("openat", "error=EMFILE:when=1"),
    ],
)
async def test_a_journal_that_fails_is_done_without_and_used_again_later(
    tmp_path: Path, file: Path, call: str, fault: str
) -> None:
    migrate(file)
    said = said_with_fault(file, file.with_suffix(".journal"), call, fault)
    assert len(said) == 12
    assert set(said) == {"journaled", "straight"}
    assert "journaled" in said[said.index("straight") :]
    await check_twelve(tmp_path)


async def test_a_database_that_breaks_keeps_what_is_in_the_journal_and_stores_it_once(
    tmp_path: Path, file: Path
) -> None:
    migrate(file)
    said = said_with_fault(file, file.with_name(f"{file.name}.wal"), "fdatasync", "error=EIO:when=1+3")
    assert said.count("journaled") + said.count("straight") == 12
    await check_twelve(tmp_path)


async def test_an_apply_that_fails_keeps_what_is_in_the_journal_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise duckdb.IOException("no more")

    monkeypatch.setattr("pingup.storage.duckdb.telemetry._APPLY_AFTER", 3600)
    async with opened(tmp_path) as telemetry:
        await store(telemetry, [sample()])
        with monkeypatch.context() as broken:
            broken.setattr(_Session, "append", fail)
            with pytest.raises(Unavailable):
                await telemetry._write(telemetry._writer.apply)
            broken.setattr(_Session, "take", fail)
            # Who reads while nothing can be written sees what is there.
            assert await all_samples(telemetry) == []
            with pytest.raises(Unavailable):
                await store(telemetry, [sample(seconds=1)])
            copy = await crashed(telemetry, tmp_path)
        assert await store(telemetry, [sample(), sample(seconds=1)]) == [False, True]
        assert await all_samples(telemetry) == [sample(), sample(seconds=1)]
    async with opened(copy) as telemetry:
        assert await all_samples(telemetry) == [sample()]


async def test_numbers_are_known_while_they_cannot_come_into_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise duckdb.IOException("no more")

    one = Run("A", "s", Fate.STORED, 1, 1, 1, at(1), at(1), at(1))
    async with opened(tmp_path) as telemetry:
        await telemetry.store(Deposit([sample()], [one]))
        with monkeypatch.context() as broken:
            broken.setattr(_Session, "append", fail)
            broken.setattr(_Session, "take", fail)
            assert await telemetry.runs() == [one]
        assert await telemetry.runs() == [one]


async def test_a_purge_that_cannot_empty_the_journal_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(EIO, "no more")

    async with opened(tmp_path) as telemetry:
        await store(telemetry, [sample()])
        with monkeypatch.context() as broken:
            broken.setattr("pingup.storage.journal.os.ftruncate", fail)
            with pytest.raises(Unavailable, match="cannot be cleared"):
                await telemetry.purge("A")
            assert await all_samples(telemetry) == [sample()]
        await telemetry.purge("A")
        assert not await telemetry.has("A")


async def test_a_stop_while_nothing_can_be_stored_leaves_it_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise duckdb.IOException("no more")

    monkeypatch.setattr("pingup.storage.duckdb.telemetry._APPLY_AFTER", 3600)
    with monkeypatch.context() as broken:
        async with opened(tmp_path) as telemetry:
            await store(telemetry, [sample()])
            broken.setattr(_Session, "append", fail)
    assert "left in the journal" in caplog.text
    async with opened(tmp_path) as telemetry:
        assert await all_samples(telemetry) == [sample()]
    assert os.listdir(tmp_path) == ["analytics.duckdb"]


# --- values ------------------------------------------------------------------------------------------

wild_moments = st.one_of(st.datetimes(), st.datetimes(timezones=st.timezones()), st.integers(0, 9).map(at))
wild = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**64), 2**64),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=3),
    st.decimals(allow_nan=False),
    wild_moments,
)
tame = st.one_of(st.none(), st.floats(allow_nan=False))


@st.composite
def nearly_samples(draw: st.DrawFn) -> Sample:
    """A sample of which one value, or none, may be anything."""
    usual = draw(
        st.builds(Sample, st.just("A"), wild_moments, tame, tame, tame, st.none(), st.just("online"))
    )
    field = draw(st.sampled_from(["cpu", "latency", "status", "extra", "timestamp", "agent_id"]))
    return replace(usual, **{field: draw(wild)})


@settings(deadline=None, max_examples=30)
@given(st.lists(nearly_samples(), min_size=1, max_size=20))
def test_whatever_enters_the_journal_can_be_stored(wild: list[Sample]) -> None:
    async def scenario() -> None:
        with TemporaryDirectory() as directory:
            async with opened(Path(directory)) as telemetry:
                for one in wild:
                    try:
                        await store(telemetry, [one])
                    except Unstorable:
                        continue
                    await telemetry._write(telemetry._writer.apply)
                assert not telemetry._writer.is_pending()

    asyncio.run(scenario())
