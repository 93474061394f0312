"""The spool in a real file: what is kept, what goes, and what happens when the disk does not want to."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pingup.agent.ranges import Ranges
from pingup.agent.schedule import Pace, Schedule
from pingup.agent.settings import SpoolSettings
from pingup.agent.spool import MAX_UNWRITTEN, Spool
from pingup.agent.spool_disk import Disk, Unwritten, Work
from pingup.agent.spool_file import ROW_BYTES, Bounds, Extent, Proof, SpoolFile, Stored
from pingup.errors import Unavailable
from pingup.topics import Kind
from tests.agent.rig import LIMIT, until

NAME = "spool.db"
PLENTY = Bounds(100_000, 2**28)


def _stored(text: str) -> Stored:
    return Stored(Kind.METRICS, text.encode())


@contextmanager
def _open(directory: Path) -> Iterator[SpoolFile]:
    file = SpoolFile.open(directory / NAME)
    try:
        yield file
    finally:
        file.close()


def _held(file: SpoolFile) -> dict[int, bytes]:
    numbers = range(file.extent.first, file.extent.last + 1)
    return {seq: stored.body for seq in numbers if (stored := file.read(seq)) is not None}


# --- the file ----------------------------------------------------------------------------------------


def test_numbers_count_from_1_and_are_never_given_twice(tmp_path: Path) -> None:
    with _open(tmp_path) as file:
        stream = file.extent.stream
        file.append([_stored("a"), _stored("b")], PLENTY)
        assert _held(file) == {1: b"a", 2: b"b"}
        file.free([(1, 2)])
    with _open(tmp_path) as file:
        assert file.extent == Extent(stream, 3, 2, Proof.UNKNOWN)
        file.append([_stored("c")], PLENTY)
        assert _held(file) == {3: b"c"}


def test_a_new_stream_begins_with_what_is_held_counted_from_1(tmp_path: Path) -> None:
    with _open(tmp_path) as file:
        before = file.extent.stream
        file.append([_stored(text) for text in "abcd"], PLENTY)
        file.free([(1, 2)])
        file.renumber()
        assert _held(file) == {1: b"c", 2: b"d"}
    with _open(tmp_path) as file:
        assert file.extent.stream != before
        file.append([_stored("e")], PLENTY)
        assert _held(file) == {1: b"c", 2: b"d", 3: b"e"}


def test_what_lets_messages_go_is_remembered(tmp_path: Path) -> None:
    with _open(tmp_path) as file:
        file.remember(Proof.RECEIPT)
    with _open(tmp_path) as file:
        assert file.extent.proof is Proof.RECEIPT


def test_too_many_messages_drop_the_oldest(tmp_path: Path) -> None:
    with _open(tmp_path) as file:
        assert file.append([_stored(str(number)) for number in range(5)], Bounds(3, 2**20)) == 2
        assert file.extent.first == 3
        assert file.append([_stored("x")], Bounds(3, 2**20)) == 1
        assert list(_held(file)) == [4, 5, 6]


def test_too_many_bytes_drop_the_oldest_also_after_a_restart(tmp_path: Path) -> None:
    bounds = Bounds(100, 3 * (100 + ROW_BYTES))
    with _open(tmp_path) as file:
        file.append([_stored("x" * 100)] * 3, bounds)
    with _open(tmp_path) as file:
        assert file.append([_stored("x" * 101)], bounds) == 2
        assert list(_held(file)) == [3, 4]


def test_an_empty_spool_gives_the_space_of_an_outage_back(tmp_path: Path) -> None:
    with _open(tmp_path) as file:
        file.append([_stored("x" * 1000)] * 5000, PLENTY)
        file.free([(1, 5000)])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100_000


def test_two_agents_never_share_a_spool(tmp_path: Path) -> None:
    with _open(tmp_path), pytest.raises(sqlite3.OperationalError, match="locked"):
        SpoolFile.open(tmp_path / NAME)


_FILLED_AND_KILLED = """
import os, signal, sys
from pathlib import Path
from pingup.agent.spool_file import Bounds, SpoolFile, Stored
from pingup.topics import Kind

file = SpoolFile.open(Path(sys.argv[1]))
for number in range(100):
    file.append([Stored(Kind.METRICS, b"%d" % number)], Bounds(1000, 2**20))
    if number == 50:
        file.free([(1, 10)])
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_what_was_taken_in_survives_kill_9(tmp_path: Path) -> None:
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", _FILLED_AND_KILLED, tmp_path / NAME)
    async with asyncio.timeout(LIMIT):
        assert await killed.wait() == -9
    with _open(tmp_path) as file:
        assert _held(file) == {seq: b"%d" % (seq - 1) for seq in range(11, 101)}


# --- the file and the schedule, against a model ------------------------------------------------------


class SpoolMachine(RuleBasedStateMachine):
    """Puts, sends, acknowledges, cuts, frees, drops, reopens in any order, and knows what must be held."""

    bounds = Bounds(12, 2**20)

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.held: dict[int, bytes] = {}
        self.last = 0
        self.in_flight: list[int] = []
        self.now = 0.0
        self._begin()
        self.stream = self.file.extent.stream

    def _begin(self) -> None:
        self.file = SpoolFile.open(Path(self.directory.name) / NAME)
        self.schedule = Schedule(self.file.extent, Pace(rate=1000.0, resend=60.0))
        self.in_flight = []

    def teardown(self) -> None:
        self.file.close()
        self.directory.cleanup()

    def _free(self, ranges: Ranges) -> None:
        self.file.free(ranges)
        for first, last in ranges:
            for seq in range(first, last + 1):
                self.held.pop(seq, None)
        self._keep_step()

    def _keep_step(self, *, fresh: bool = False) -> None:
        self.schedule.extend(self.file.extent, fresh=fresh)
        if self.schedule.proof is not self.file.extent.proof:
            self.file.remember(self.schedule.proof)

    @rule(count=st.integers(1, 8), fresh=st.booleans())
    def put(self, count: int, fresh: bool) -> None:
        numbers = range(self.last + 1, self.last + 1 + count)
        dropped = self.file.append([_stored(str(seq)) for seq in numbers], self.bounds)
        self.held |= {seq: str(seq).encode() for seq in numbers}
        self.last += count
        for seq in sorted(self.held)[:dropped]:
            del self.held[seq]
        assert len(self.held) <= self.bounds.messages
        self._keep_step(fresh=fresh)

    @rule(times=st.integers(1, 5))
    def send(self, times: int) -> None:
        for _ in range(times):
            seq = self.schedule.next(self.now)
            if seq is None:
                break
            assert seq not in self.in_flight
            if self.file.read(seq) is None:
                # Only what left the spool while another of its kind was on the way can be missing.
                assert seq not in self.held
                self.schedule.vanished(seq)
            else:
                assert self.schedule.first <= seq
                self.in_flight.append(seq)

    @precondition(lambda self: self.in_flight)
    @rule()
    def acknowledge(self) -> None:
        self._free(self.schedule.acknowledged(self.in_flight.pop(0), self.now))

    @rule()
    def cut(self) -> None:
        for seq in self.in_flight:
            self.schedule.failed(seq)
        self.in_flight = []
        self.schedule.session(self.now)

    @precondition(lambda self: self.last)
    @rule(data=st.data())
    def receipt(self, data: st.DataObject) -> None:
        self._free(self.schedule.receipt(data.draw(st.integers(0, self.last))))

    @rule(there=st.booleans())
    def server(self, there: bool) -> None:
        self.schedule.server(there=there, now=self.now)

    @rule(seconds=st.sampled_from([0.01, 1.0, 61.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def reopen(self) -> None:
        self.file.close()
        self._begin()

    @invariant()
    def exactly_what_was_not_freed_is_held(self) -> None:
        assert _held(self.file) == self.held
        assert self.file.extent.stream == self.stream
        assert self.file.extent.last == self.last
        assert self.file.extent.first == min(self.held, default=self.last + 1)
        # Never higher: the server would take what is below for lost.
        assert self.schedule.first <= min(self.held, default=self.last + 1)

    @invariant()
    def everything_held_is_on_its_way_or_will_be(self) -> None:
        schedule = self.schedule
        places = [set(schedule._fresh), set(schedule._in_flight)]
        places += [{seq for a, b in ranges for seq in range(a, b + 1)} for ranges in schedule._backlog]
        runs = [[(run.first, run.last) for run in stage] for stage in schedule._unconfirmed]
        places += [{seq for a, b in ranges for seq in range(a, b + 1)} for ranges in runs]
        for seq in self.held:
            assert sum(seq in place for place in places) == 1


TestSpoolAgainstItsModel = SpoolMachine.TestCase
TestSpoolAgainstItsModel.settings = hypothesis_settings(
    max_examples=40, stateful_step_count=30, deadline=None
)


# --- the spool with its thread -----------------------------------------------------------------------


@asynccontextmanager
async def _running(directory: Path, **values: int) -> AsyncIterator[Spool]:
    spool = Spool(directory / NAME, SpoolSettings(**values), retry_pause=0.01)
    async with spool.open():
        running = asyncio.create_task(spool.run())
        try:
            yield spool
        finally:
            running.cancel()
            await asyncio.wait([running])
    assert running.cancelled()


async def _until_it_holds(spool: Spool, fits: Callable[[Extent], bool]) -> Extent:
    changed = asyncio.Event()
    spool.watch(changed.set)
    async with asyncio.timeout(LIMIT):
        while spool.extent is None or not fits(spool.extent):
            await changed.wait()
            changed.clear()
    return spool.extent


def _ends_at(last: int, extent: Extent) -> bool:
    return extent.last == last


@contextmanager
def _full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_what_is_freed_while_a_new_stream_begins_frees_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, may_go_on = threading.Event(), threading.Event()
    renumber = SpoolFile.renumber

    def held_up(file: SpoolFile) -> None:
        entered.set()
        may_go_on.wait(LIMIT)
        renumber(file)

    monkeypatch.setattr(SpoolFile, "renumber", held_up)
    async with _running(tmp_path) as spool:
        for number in range(1, 10):
            spool.put(Kind.METRICS, b"%d" % number)
        old = (await _until_it_holds(spool, partial(_ends_at, 9))).stream
        spool.free(old, Ranges([(1, 3)]))
        await _until_it_holds(spool, lambda extent: extent.first == 4)
        spool.renumber(old)
        await until(entered.is_set)
        spool.free(old, Ranges([(4, 5)]))
        may_go_on.set()
        await _until_it_holds(spool, lambda extent: extent.stream != old)
        spool.put(Kind.METRICS, b"last")
        await _until_it_holds(spool, partial(_ends_at, 7))
    with _open(tmp_path) as file:
        assert list(_held(file).values()) == [b"4", b"5", b"6", b"7", b"8", b"9", b"last"]


async def test_what_is_put_just_before_the_end_is_kept(tmp_path: Path) -> None:
    async with _running(tmp_path) as spool:
        spool.put(Kind.METRICS, b"a")
        spool.put(Kind.DISCOVERY, b"b")
    with _open(tmp_path) as file:
        assert [file.read(1), file.read(2)] == [Stored(Kind.METRICS, b"a"), Stored(Kind.DISCOVERY, b"b")]
        assert file.extent.last == 2


async def test_an_end_in_the_middle_of_a_write_writes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / NAME, SpoolSettings())
    begun, go_on = threading.Event(), threading.Event()
    write = spool._disk.do

    def write_slowly(work: Work) -> tuple[Extent, int]:
        begun.set()
        go_on.wait(LIMIT)
        return write(work)

    async with spool.open():
        running = asyncio.create_task(spool.run())
        await _until_it_holds(spool, partial(_ends_at, 0))
        monkeypatch.setattr(spool._disk, "do", write_slowly)
        spool.put(Kind.METRICS, b"a")
        await until(begun.is_set)
        running.cancel()
        await asyncio.wait([running])
        go_on.set()
    with _open(tmp_path) as file:
        assert _held(file) == {1: b"a"}


def test_what_is_freed_of_a_stream_that_has_ended_meanwhile_frees_nothing_of_the_next(tmp_path: Path) -> None:
    disk = Disk(tmp_path / NAME, PLENTY)
    disk.do(Work(waiting=(Unwritten(1, _stored("a")),)))
    extent, _ = disk.do(Work(stream="the one before", freed=((1, 1),), proof=Proof.PUBACK))
    disk.close(Work())
    assert (extent.first, extent.last, extent.proof) == (1, 1, Proof.UNKNOWN)


async def test_a_full_disk_loses_nothing_once_it_is_freed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with _running(tmp_path) as spool:
        spool.put(Kind.METRICS, b"before")
        await _until_it_holds(spool, lambda extent: extent.last == 1)
        with _full_disk(1):
            for number in range(50):
                spool.put(Kind.METRICS, b"%d" % number)
            await until(lambda: spool.is_failing)
            waiting = spool.unwritten()
            assert waiting is not None
            assert waiting.message.body == b"0"
            spool.arrived(waiting)  # the broker got it without a number
        extent = await _until_it_holds(spool, lambda extent: extent.last == 50)
        assert not spool.is_failing
        assert spool.unwritten() is None
        bodies = [await spool.read(extent.stream, seq) for seq in range(1, 51)]
    assert [stored and stored.body for stored in bodies] == [b"before", *(b"%d" % n for n in range(1, 50))]
    assert caplog.text.count("can't be written") == 1
    assert caplog.text.count("can be written again") == 1


async def test_what_arrived_while_the_disk_was_full_is_freed_afterwards(tmp_path: Path) -> None:
    async with _running(tmp_path) as spool:
        for number in range(3):
            spool.put(Kind.METRICS, b"%d" % number)
        extent = await _until_it_holds(spool, partial(_ends_at, 3))
        with _full_disk(1):
            spool.free(extent.stream, Ranges([(1, 2)]))
            await until(lambda: spool.is_failing)
        await _until_it_holds(spool, lambda extent: extent.first == 3)


async def test_without_a_disk_the_newest_messages_stay_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with _running(tmp_path) as spool:
        with _full_disk(1):
            for number in range(MAX_UNWRITTEN + 5):
                spool.put(Kind.METRICS, b"%d" % number)
            await until(lambda: spool.is_failing)
        extent = await _until_it_holds(spool, lambda extent: extent.last == MAX_UNWRITTEN)
        oldest = await spool.read(extent.stream, 1)
        spool.free(extent.stream, Ranges([(1, 1)]))
        await _until_it_holds(spool, lambda extent: extent.first == 2)
    assert oldest == Stored(Kind.METRICS, b"5")
    assert caplog.text.count("the oldest are dropped") == 1
    assert "5 messages were dropped" in caplog.text


async def test_dropping_is_told_once_at_its_beginning_and_summed_up_at_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with _running(tmp_path, max_messages=3) as spool:
        for number in range(1, 8):
            spool.put(Kind.METRICS, b"%d" % number)
            await _until_it_holds(spool, partial(_ends_at, number))
        extent = await _until_it_holds(spool, partial(_ends_at, 7))
        assert extent.first == 5
        assert "were dropped" not in caplog.text
        spool.free(extent.stream, Ranges([(5, 6)]))
        await _until_it_holds(spool, lambda extent: extent.first == 7)
    assert caplog.text.count("the oldest are dropped") == 1
    assert "4 messages were dropped" in caplog.text


MARK = b"long enough to be taken for a database"


def _no_database(path: Path) -> None:
    path.write_bytes(MARK * 100)


def _another_program_s(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE messages (colour TEXT)")
    other.execute("INSERT INTO messages VALUES (?)", (MARK,))
    other.commit()
    other.close()


@pytest.mark.parametrize("damage", [_no_database, _another_program_s])
async def test_a_damaged_file_is_set_aside_and_a_new_stream_begins(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(tmp_path / NAME)
    async with _running(tmp_path) as spool:
        spool.put(Kind.METRICS, b"a")
        extent = await _until_it_holds(spool, lambda extent: extent.last == 1)
        assert extent.first == 1
    assert MARK in (tmp_path / f"{NAME}.damaged-1").read_bytes()
    assert "is damaged" in caplog.text


async def test_a_file_that_is_damaged_while_it_is_used_is_set_aside_and_nothing_new_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _open(tmp_path) as file:
        file.append([_stored("x" * 1000)] * 5000, PLENTY)  # more than is cached
    async with _running(tmp_path) as spool:
        old = await _until_it_holds(spool, lambda extent: extent.last == 5000)
        _tear(tmp_path / NAME)
        with pytest.raises(Unavailable):
            await spool.read(old.stream, 2500)
        for number in range(100):
            spool.put(Kind.METRICS, b"%d" % number)
        new = await _until_it_holds(spool, lambda extent: extent.stream != old.stream and extent.last == 100)
        assert await spool.read(new.stream, 1) == Stored(Kind.METRICS, b"0")
        assert await spool.read(old.stream, 1) is None
        # What was to be freed of the old stream frees nothing of the new one.
        spool.free(old.stream, Ranges([(1, 5000)]))
        spool.put(Kind.METRICS, b"100")
        assert (await _until_it_holds(spool, lambda extent: extent.last == 101)).first == 1
    assert (tmp_path / f"{NAME}.damaged-1").stat().st_size > 5_000_000
    assert sum("is damaged" in record.message for record in caplog.records) == 1


def _tear(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as torn:
        torn.seek(4096)
        torn.write(b"\xff" * (size - 4096))
