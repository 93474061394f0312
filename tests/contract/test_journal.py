"""The journal by itself: what was added comes back, whatever became of its file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pingup.errors import Unavailable, Unstorable, Unusable
from pingup.model import Fate, Run, Sample
from pingup.storage.journal import Entry, Journal
from tests.contract.telemetry_examples import at, sample, start_process

RUN = Run("A", "s", Fate.STORED, 1, 1, 1, at(0), at(1), at(2))
ENTRIES: list[Entry] = [
    ([sample(), sample("B", 1)], []),
    ([replace(sample(seconds=2), extra='{"load":1.0}')], [RUN]),
    ([], [replace(RUN, low=2, high=7, fate=Fate.REFUSED)]),
]
HEADER = 17  # bytes of the line that names the format
SIZE = 4  # bytes of an entry's size, before anything else of it


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "analytics.journal"


def write(file: Path, entries: Sequence[Entry]) -> list[int]:
    """A journal that nobody has cleared; the size of its file at first and after each entry."""
    journal = Journal(file)
    assert journal.recover() == []
    sizes = [0]
    for entry in entries:
        assert journal.add(*entry)[:2] == entry
        sizes.append(file.stat().st_size)
    journal.close()
    return sizes


def read(file: Path) -> tuple[list[Entry], Path | None]:
    journal = Journal(file)
    entries = journal.recover()
    journal.close()
    return entries, journal.quarantined


# --- round trips -------------------------------------------------------------------------------------

moments = st.one_of(
    st.datetimes(timezones=st.just(UTC)),
    st.sampled_from([datetime.min, datetime.max]).map(lambda moment: moment.replace(tzinfo=UTC)),
    st.integers(0, 9).map(at).map(lambda moment: moment.astimezone(timezone(timedelta(hours=5, minutes=30)))),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.one_of(st.none(), st.floats(allow_nan=False))
int64 = st.integers(-(2**63), 2**63 - 1)
deposits = st.tuples(
    st.lists(
        st.builds(
            Sample,
            texts,
            moments,
            numbers,
            numbers,
            numbers,
            st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
            texts,
            st.one_of(st.none(), texts),
        ),
        max_size=4,
    ),
    st.lists(
        st.builds(Run, texts, texts, st.sampled_from(Fate), int64, int64, int64, moments, moments, moments),
        max_size=3,
    ),
)


@settings(deadline=None)
@given(st.lists(deposits, max_size=4))
def test_what_is_added_comes_back_in_its_order(entries: list[Entry]) -> None:
    with TemporaryDirectory() as directory:
        file = Path(directory, "analytics.journal")
        write(file, entries)
        assert read(file) == (entries, None)


def test_after_a_clear_only_what_came_later_comes_back(file: Path) -> None:
    journal = Journal(file)
    journal.add(*ENTRIES[0])
    journal.clear()
    journal.add(*ENTRIES[1])
    journal.close()
    assert read(file) == ([ENTRIES[1]], None)


def test_of_a_cleared_journal_no_file_is_left(file: Path) -> None:
    write(file, ENTRIES)
    journal = Journal(file)
    assert journal.recover() == ENTRIES
    assert os.listdir(file.parent) == [file.name]
    journal.clear()
    journal.close()
    assert os.listdir(file.parent) == []


def test_nothing_comes_behind_what_a_crash_has_left_before_it_is_cleared(file: Path) -> None:
    write(file, ENTRIES[:1])
    journal = Journal(file)
    assert journal.recover() == ENTRIES[:1]
    with pytest.raises(Unavailable):
        journal.add(*ENTRIES[1])
    assert read(file) == (ENTRIES[:1], None)
    journal.clear()
    journal.add(*ENTRIES[1])
    journal.close()
    assert read(file) == (ENTRIES[1:2], None)


def test_others_of_the_machine_cannot_read_it(file: Path) -> None:
    write(file, ENTRIES)
    assert file.stat().st_mode & 0o777 == 0o600


# --- damage ------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(file: Path) -> Callable[[bytes], tuple[list[Entry], bool]]:
    """Puts bytes in the journal's place and reads them: the entries, and whether a copy was kept of it."""

    def look(content: bytes) -> tuple[list[Entry], bool]:
        file.write_bytes(content)
        entries, copy = read(file)
        assert file.read_bytes() == content
        if copy is None:
            assert os.listdir(file.parent) == [file.name]
            return entries, False
        assert copy.name.startswith("analytics.journal.damaged-")
        assert copy.read_bytes() == content
        assert copy.stat().st_mode == file.stat().st_mode
        copy.unlink()
        return entries, True

    return look


def whole(sizes: Sequence[int], offset: int) -> int:
    """How many entries end at or before it."""
    return sum(size <= offset for size in sizes[1:])


def test_cut_short_anywhere_it_gives_everything_before(
    file: Path, damaged: Callable[[bytes], tuple[list[Entry], bool]]
) -> None:
    sizes = write(file, ENTRIES)
    content = file.read_bytes()
    for size in range(1, len(content)):
        # A crash while its first line is written leaves nothing that anybody could miss.
        is_whole = size <= HEADER or size in sizes
        assert damaged(content[:size]) == (ENTRIES[: whole(sizes, size)], not is_whole)


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80])
def test_changed_anywhere_it_gives_all_entries_but_one_at_least_those_before(
    file: Path, damaged: Callable[[bytes], tuple[list[Entry], bool]], mask: int
) -> None:
    sizes = write(file, ENTRIES)
    content = file.read_bytes()
    for place in range(HEADER, len(content)):
        changed = content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]
        before = whole(sizes, place)
        found, is_aside = damaged(changed)
        assert is_aside
        assert found in (ENTRIES[:before], ENTRIES[:before] + ENTRIES[before + 1 :])
        # Where its size is wrong nobody knows where the next one begins.
        start = max(sizes[before], HEADER)
        assert place < start + SIZE or len(found) == len(ENTRIES) - 1


@pytest.mark.parametrize("rest", [b"\0", bytes(4096), b"no entry at all", b"\xff" * 100])
def test_what_stands_behind_the_last_entry_is_kept_aside(
    file: Path, damaged: Callable[[bytes], tuple[list[Entry], bool]], rest: bytes
) -> None:
    write(file, ENTRIES)
    assert damaged(file.read_bytes() + rest) == (ENTRIES, True)


def test_a_second_damaged_one_does_not_take_the_place_of_the_first(file: Path) -> None:
    copies = []
    for rest in (b"first", b"second"):
        file.write_bytes(b"pingup journal 1\n" + rest)
        # The name tells when it was last written, and that may be the same twice.
        os.utime(file, (0, 0))
        copies.append(read(file)[1])
    assert [copy.read_bytes()[HEADER:] for copy in copies if copy] == [b"first", b"second"]


def test_one_of_another_version_is_refused_and_left_alone(file: Path) -> None:
    content = b"pingup journal 2\nsomething"
    file.write_bytes(content)
    with pytest.raises(Unusable, match="another version"):
        Journal(file).recover()
    assert file.read_bytes() == content
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize("content", [b"hello world\n" * 10, b"pingup journal 1\r\n", b"pinguP", bytes(4096)])
def test_a_file_that_is_no_journal_is_kept_aside(
    file: Path, damaged: Callable[[bytes], tuple[list[Entry], bool]], content: bytes
) -> None:
    assert damaged(content) == ([], True)


def test_behind_a_damaged_first_line_everything_is_found(
    file: Path, damaged: Callable[[bytes], tuple[list[Entry], bool]]
) -> None:
    write(file, ENTRIES)
    assert damaged(bytes(HEADER) + file.read_bytes()[HEADER:]) == (ENTRIES, True)


def test_a_journal_that_cannot_be_read_is_refused(file: Path) -> None:
    file.mkdir()
    with pytest.raises(Unusable, match="cannot read"):
        Journal(file).recover()


# --- values ------------------------------------------------------------------------------------------

NAIVE = datetime(2026, 2, 25)
UNSTORABLE: list[Any] = [
    ([replace(sample(), latency=2**31)], []),
    ([replace(sample(), latency=-(2**31) - 1)], []),
    ([replace(sample(), latency=0.5)], []),
    ([replace(sample(), cpu="warm")], []),
    ([replace(sample(), ram=object())], []),
    ([replace(sample(), disk=10**30)], []),
    ([replace(sample(), status="\ud800")], []),
    ([replace(sample(), status=None)], []),
    ([replace(sample(), extra={"load": 1.0})], []),
    ([replace(sample(), agent_id=b"A")], []),
    ([replace(sample(), timestamp="now")], []),
    ([replace(sample(), timestamp=datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))))], []),
    ([], [replace(RUN, high=2**63)]),
    ([], [replace(RUN, low=2**63, high=2**63)]),
    ([], [replace(RUN, first=2**63)]),
    ([], [replace(RUN, low=-(2**63) - 1)]),
    ([], [replace(RUN, low_at=NAIVE)]),
    ([], [replace(RUN, high_at=NAIVE)]),
    ([], [replace(RUN, received_at=NAIVE)]),
    ([], [replace(RUN, fate="lost?")]),
    ([], [replace(RUN, stream="\udfff")]),
]


@pytest.mark.parametrize("bad", UNSTORABLE)
def test_what_no_column_can_hold_is_refused_and_leaves_no_trace(file: Path, bad: Any) -> None:
    journal = Journal(file)
    journal.add(*ENTRIES[0])
    before = file.read_bytes()
    with pytest.raises(Unstorable, match="cannot be stored"):
        journal.add([*ENTRIES[0][0], *bad[0]], [*bad[1], RUN])
    assert file.read_bytes() == before
    journal.add(*ENTRIES[1])
    journal.close()
    assert read(file) == (ENTRIES[:2], None)


# --- a full disk -------------------------------------------------------------------------------------

# Adds samples until the disk is full, here in the middle of one, and says how many were taken; then clears
# the journal if it is told to, goes on, and ends without an end.
FILLING = """
import os, resource, sys
from pathlib import Path
from pingup.errors import Unavailable
from pingup.storage.journal import Journal
from tests.contract.telemetry_examples import sample

def allow(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def count_taken(journal, start):
    for seconds in range(start, 100):
        try:
            journal.add([sample(seconds=seconds)], [])
        except Unavailable:
            return seconds - start
    return 100 - start

journal = Journal(Path(sys.argv[1]))
allow(1000)
print(count_taken(journal, 0))
allow(resource.RLIM_INFINITY)
print(count_taken(journal, 50))
if sys.argv[2] == "clear":
    journal.clear()
    print(count_taken(journal, 90))
sys.stdout.flush()
os._exit(0)
"""


def test_on_a_full_disk_nothing_is_lost_and_nothing_more_is_taken(file: Path) -> None:
    taken, later = said_while_filling(file, "crash")
    entries, copy = read(file)
    assert 5 < taken < 20
    assert later == 0
    assert entries == [([sample(seconds=n)], []) for n in range(taken)]
    assert copy is None, "half an entry was left"


def test_after_a_full_disk_it_is_used_again_once_it_was_cleared(file: Path) -> None:
    assert list(said_while_filling(file, "clear"))[1:] == [0, 10]
    assert read(file) == ([([sample(seconds=n)], []) for n in range(90, 100)], None)


def said_while_filling(file: Path, end: str) -> Iterator[int]:
    with start_process(FILLING, file, end) as process:
        said, _ = process.communicate()
    return map(int, said.split())
