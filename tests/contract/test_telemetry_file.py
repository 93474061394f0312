"""The file `analytics.duckdb` in every state that it may be found in: killed, locked, damaged, full."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from subprocess import PIPE, run

import duckdb
import pytest
from msgspec.structs import replace

from pingup.errors import Unusable
from pingup.model import Host, Span
from pingup.storage.duckdb import DuckDBTelemetry, migrate
from pingup.storage.duckdb.writer import JOURNALED_BELOW
from tests.contract.telemetry_examples import (
    NEVER_JOURNALED,
    ROOT,
    all_samples,
    at,
    opened,
    sample,
    scan,
    start_process,
    store,
)
from tests.mosquitto import find_program

# Stores one sample after the other and tells of each once it is committed; ends when stdin does.
STORING = """
import asyncio, sys
from pathlib import Path
from pingup.storage.duckdb import DuckDBTelemetry
from tests.contract.telemetry_examples import sample, store

async def main():
    telemetry = await DuckDBTelemetry.open(Path(sys.argv[1]), journaled_below=int(sys.argv[3]))
    for seconds in range(int(sys.argv[2])):
        await store(telemetry, [sample(seconds=seconds), sample("B", seconds)])
        print(seconds, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""
COUNT = 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "analytics.duckdb"


@pytest.fixture
def killed(file: Path) -> Path:
    """A file whose server was killed with samples 0 to 19 in its write-ahead log; the path of the log."""
    _store_and_kill(file)
    log = file.with_name("analytics.duckdb.wal")
    assert log.stat().st_size > 0
    return log


def _store_and_kill(file: Path, journaled_below: int = NEVER_JOURNALED) -> None:
    with start_process(STORING, file, COUNT, journaled_below) as process:
        assert process.stdout is not None
        for seconds in range(COUNT):
            assert process.stdout.readline() == f"{seconds}\n"
        process.kill()


def _query(file: Path, statement: str) -> list[tuple[object, ...]]:
    with duckdb.connect(file) as connection:
        return connection.execute(statement).fetchall()


# --- the schema --------------------------------------------------------------------------------------


async def test_the_specifications_columns_come_first_and_in_order(file: Path) -> None:
    assert migrate(file) == ["0001_telemetry", "0002_sequences", "0003_sorted"]
    columns = (
        "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = '{}' ORDER BY column_index"
    )
    assert _query(file, columns.format("metrics"))[:7] == [
        ("agent_id", "VARCHAR"),
        ("timestamp", "TIMESTAMP"),
        ("cpu", "DOUBLE"),
        ("ram", "DOUBLE"),
        ("disk", "DOUBLE"),
        ("latency", "INTEGER"),
        ("status", "VARCHAR"),
    ]
    assert _query(file, columns.format("discovery"))[:6] == [
        ("agent_id", "VARCHAR"),
        ("scan_timestamp", "TIMESTAMP"),
        ("host_ip", "VARCHAR"),
        ("latency", "INTEGER"),
        ("ports", "VARCHAR"),
        ("scan_duration", "INTEGER"),
    ]
    assert _query(file, "SELECT * FROM duckdb_indexes()") == []


async def test_ports_are_json_and_an_empty_scan_is_one_row_without_an_address(
    tmp_path: Path, file: Path
) -> None:
    async with opened(tmp_path) as telemetry:
        await store(telemetry, [scan(hosts=1), scan(seconds=1, hosts=0)])
    rows = "SELECT host_ip, latency, ports, scan_duration FROM discovery ORDER BY scan_timestamp"
    assert _query(file, rows) == [("10.0.0.1", 1, "[22,443]", 15230), (None, None, None, 15230)]


async def test_migrating_again_changes_nothing(tmp_path: Path, file: Path) -> None:
    async with opened(tmp_path) as telemetry:
        await store(telemetry, [sample()])
    assert migrate(file) == []
    async with opened(tmp_path) as telemetry:
        assert await all_samples(telemetry) == [sample()]


async def test_a_file_from_a_newer_program_is_refused_and_left_alone(file: Path) -> None:
    migrate(file)
    _query(file, "INSERT INTO migrations VALUES (99, 'later')")
    with pytest.raises(Unusable, match="newer"):
        await DuckDBTelemetry.open(file)
    with pytest.raises(Unusable, match="newer"):
        migrate(file)


# --- crashes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [NEVER_JOURNALED, JOURNALED_BELOW], ids=["straight", "journaled"])
async def test_a_sample_is_readable_after_kill_9(tmp_path: Path, file: Path, way: int) -> None:
    _store_and_kill(file, way)
    async with opened(tmp_path) as telemetry:
        assert await all_samples(telemetry) == [sample(seconds=n) for n in range(COUNT)]
        assert telemetry.quarantined is None
        assert await store(telemetry, [sample(seconds=3), sample(seconds=99)]) == [False, True]
    assert os.listdir(tmp_path) == ["analytics.duckdb"]


def _change(file: Path, change: Callable[[bytes], bytes]) -> bytes:
    changed = change(file.read_bytes())
    file.write_bytes(changed)
    return changed


def _garbage(log: bytes) -> bytes:
    return b"no log at all" * 100


def _cut(log: bytes) -> bytes:
    return log[: len(log) // 2 + 1]


def _flip(log: bytes) -> bytes:
    middle = len(log) // 2
    return log[:middle] + bytes([log[middle] ^ 0xFF]) + log[middle + 1 :]


def _blank(log: bytes) -> bytes:
    middle = len(log) // 2
    return log[:middle] + bytes(200) + log[middle + 200 :]


@pytest.mark.parametrize("damage", [_garbage, _cut, _flip, _blank])
async def test_a_damaged_log_is_set_aside_and_the_file_opens(
    tmp_path: Path, killed: Path, damage: Callable[[bytes], bytes]
) -> None:
    damaged = _change(killed, damage)
    async with opened(tmp_path) as telemetry:
        assert telemetry.quarantined is not None
        assert telemetry.quarantined.read_bytes() == damaged
        rest = await all_samples(telemetry)
        assert rest == [sample(seconds=n) for n in range(len(rest))]
        assert len(rest) < COUNT
        assert sum(await store(telemetry, [sample(seconds=n) for n in range(COUNT)])) == COUNT - len(rest)
    aside = telemetry.quarantined
    async with opened(tmp_path) as telemetry:
        assert telemetry.quarantined is None
        assert await all_samples(telemetry) == [sample(seconds=n) for n in range(COUNT)]
    assert aside.read_bytes() == damaged


async def test_a_log_of_another_file_is_set_aside_and_the_file_opens(tmp_path: Path, killed: Path) -> None:
    other = tmp_path / "other.duckdb"
    _store_and_kill(other)
    other.with_name("other.duckdb.wal").replace(killed)
    async with opened(tmp_path) as telemetry:
        assert telemetry.quarantined is not None
        assert telemetry.quarantined.stat().st_size > 0
        assert await all_samples(telemetry) == []
        assert await store(telemetry, [sample()]) == [True]


async def test_a_second_damaged_log_does_not_take_the_place_of_the_first(tmp_path: Path, file: Path) -> None:
    asides = []
    for content in (b"first", b"second"):
        migrate(file)
        log = file.with_name("analytics.duckdb.wal")
        log.write_bytes(content)
        # The name tells when the log was last written, and that may be the same twice.
        os.utime(log, (0, 0))
        async with opened(tmp_path) as telemetry:
            asides.append(telemetry.quarantined)
    assert [aside.read_bytes() for aside in asides if aside] == [b"first", b"second"]


# --- space --------------------------------------------------------------------------------------------


def _size(file: Path) -> int:
    return file.stat().st_size


async def test_space_of_deleted_samples_is_used_again_while_the_store_is_open(
    tmp_path: Path, file: Path
) -> None:
    noise = Random(3)
    sizes = []
    async with opened(tmp_path) as telemetry:
        for day in range(8):
            start = day * 86_400
            batch = [sample(seconds=start + n, cpu=noise.random()) for n in range(30_000)]
            await store(telemetry, batch)
            await telemetry.forget(at(start), at(start))
            with telemetry._database.cursor() as cursor:
                cursor.execute("CHECKPOINT analytics")
            sizes.append(_size(file))
    assert sizes[-1] <= sizes[3]


# --- a checkpoint that fails -------------------------------------------------------------------------


# About as wide as a legal scan can be: a checkpoint of enough of them takes much memory.
EVERY_PORT = Host("10.0.0.1", 1, tuple(range(20_000, 60_000)))
WIDE_SCANS = [replace(scan(seconds=seconds), hosts=(EVERY_PORT,)) for seconds in range(300)]


async def test_the_widest_scans_are_stored_and_checkpointed_in_the_memory_that_is_given(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as telemetry:
        for wide in WIDE_SCANS:
            assert await store(telemetry, [wide]) == [True]
        assert await telemetry.scans("A", Span(limit=1)) == WIDE_SCANS[-1:]


# Stores wide samples until the file itself, unlike its log, may not grow when a checkpoint wants it to.
CHECKPOINTING = """
import asyncio, resource, sys
from pathlib import Path
from random import Random
from msgspec.structs import replace
from pingup.errors import Unavailable
from pingup.storage.duckdb import DuckDBTelemetry
from tests.contract.telemetry_examples import sample, store

COUNT = 4000

def allow(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(file):
    noise = Random(7)
    failures = 0
    async with await DuckDBTelemetry.open(file) as telemetry:
        for seconds in range(0, COUNT, 20):
            texts = [noise.randbytes(3000).hex() for n in range(20)]
            some = [replace(sample(seconds=seconds + n), extra=text) for n, text in enumerate(texts)]
            size = file.stat().st_size
            if size > 5_000_000 and not failures:
                allow(size)
            try:
                assert all(await store(telemetry, some))
            except Unavailable:
                failures += 1
                allow(resource.RLIM_INFINITY)
                # It was committed before the checkpoint began.
                assert not any(await store(telemetry, some))
                await telemetry.check()
    print(failures)

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_a_failed_checkpoint_is_healed_by_opening_the_file_anew(tmp_path: Path, file: Path) -> None:
    with start_process(CHECKPOINTING, file) as process:
        said, _ = process.communicate()
    assert said == "1\n"
    async with opened(tmp_path) as telemetry:
        assert [one.timestamp for one in await all_samples(telemetry)] == [at(n) for n in range(4000)]


# --- files that cannot be opened ---------------------------------------------------------------------


async def test_a_second_process_is_told_who_has_the_file(file: Path) -> None:
    with start_process(STORING, file, 1, JOURNALED_BELOW) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        with pytest.raises(Unusable, match=f"in use by process {process.pid}"):
            await DuckDBTelemetry.open(file)
        process.kill()
    assert not list(file.parent.glob("*.damaged-*"))


@pytest.mark.parametrize("content", [b"hello world\n" * 1000, b"", b"SQLite format 3\0" + bytes(4080)])
def test_a_file_that_is_no_duckdb_file_is_refused_and_left_alone(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(Unusable) as refusal:
        asyncio.run(DuckDBTelemetry.open(file))
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert file.read_bytes() == content


async def test_a_directory_that_does_not_exist_is_named(file: Path) -> None:
    with pytest.raises(Unusable, match="nowhere"):
        await DuckDBTelemetry.open(file.parent / "nowhere" / "analytics.duckdb")


# --- disks that fail -----------------------------------------------------------------------------------

# Tries to store each sample until it is stored, and says what became of every try.
STUBBORN = """
import asyncio, resource, sys
from pathlib import Path
from pingup.errors import Unavailable
from pingup.model import Span
from pingup.storage.duckdb import DuckDBTelemetry
from tests.contract.telemetry_examples import sample, store

def allow(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(file, full):
    async with await DuckDBTelemetry.open(file, journaled_below=0) as telemetry:
        for seconds in range(12):
            if full and seconds == 5:
                allow(file.with_name(file.name + ".wal").stat().st_size + 1)
            while True:
                try:
                    print(*await store(telemetry, [sample(seconds=seconds), sample("B", seconds)]))
                    break
                except Unavailable:
                    print("unavailable")
                    if full:
                        print(len(await telemetry.samples("A", Span())))
                        try:
                            await telemetry.check()
                        except Unavailable:
                            print("unhealthy")
                        allow(resource.RLIM_INFINITY)
                        await telemetry.check()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2] == "full"))
"""


async def test_a_full_disk_refuses_and_loses_nothing_and_recovers_by_itself(
    tmp_path: Path, file: Path
) -> None:
    with start_process(STUBBORN, file, "full") as process:
        said, _ = process.communicate()
    assert said.splitlines() == ["True True"] * 5 + ["unavailable", "5", "unhealthy"] + ["True True"] * 7
    async with opened(tmp_path) as telemetry:
        assert await all_samples(telemetry) == [sample(seconds=n) for n in range(12)]


def test_a_failed_fsync_is_healed_by_opening_the_file_anew(file: Path) -> None:
    migrate(file)
    # Every third sync of the log fails, counted by thread, be it for a commit or while opening anew.
    strace = [find_program("strace"), "-f", "-o", os.devnull, "-P", f"{file}.wal", "-e", "trace=fdatasync"]
    fault = ["-e", "inject=fdatasync:error=EIO:when=3+3"]
    command: list[str | Path] = [*strace, *fault, sys.executable, "-c", STUBBORN, file, "failing"]
    said = run(command, cwd=ROOT, stdout=PIPE, text=True, check=True, timeout=50).stdout.splitlines()
    assert said.count("True True") == 12
    assert set(said) == {"True True", "unavailable"}
    assert len(_query(file, "SELECT DISTINCT * FROM metrics")) == 24
    assert len(_query(file, "SELECT * FROM metrics")) == 24
