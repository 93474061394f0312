"""Opening `analytics.duckdb`, in whatever state the last process left it.

A clean stop leaves no write-ahead log. After a crash DuckDB replays the log; where the log is damaged it
either refuses to open, or goes on silently without the rest. Neither may stop the server or lose bytes
that somebody could still rescue: the log is set aside under a name of its own, and told about, and what
stands before the damage is replayed.

The file must never be opened by other means in a process that has it open: closing that second descriptor
would release the lock that keeps other processes out.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pingup.errors import Unusable
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.faults import first_line

# Two threads for queries take half the time of one. The memory limit is for DuckDB's buffers alone: 32 MB is
# as fast as 64 MB, keeps the process some 30 MB smaller, and is the least with which every page that may be
# asked for comes back, of the widest samples too. Larger work spills to `analytics.duckdb.tmp` beside the
# file. Extensions are never fetched.
#
# Rows stay uncompressed in memory until a checkpoint, which takes memory of its own by the row group. A small
# log and small row groups keep a server under steady load some 16 MB smaller; either alone does not.
#
# A checkpoint drops row groups of which every row was deleted. It would also rewrite those of which some were
# for up to half a second and in more memory than there is when they are wide: then it fails, again and again.
_CHECKPOINT_AT = "4MB"
_ROW_GROUP = 24_576
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,
    "memory_limit": "32MB",
    "checkpoint_threshold": _CHECKPOINT_AT,
    "max_vacuum_tasks": 0,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
_CATALOG = "analytics"
_LOGS = (".wal", ".wal.checkpoint", ".wal.recovery")
_UNREPLAYABLE = "Failure while replaying"
_DAMAGED_ENTRY = re.compile(r"entry at byte position (\d+)")


class Opened(NamedTuple):
    """An open file, and where a damaged write-ahead log was put, if there was one."""

    connection: duckdb.DuckDBPyConnection
    quarantined: Path | None


def open_file(path: Path) -> Opened:
    """Open the file at `path`, or make it.

    Raises:
        Unusable: another process has it open, it is no DuckDB file, or it can't be read.
    """
    spare = _copy_log(path)
    try:
        connection = _connect(path)
    except duckdb.Error as fault:
        if spare is not None and _is_damage(fault) and (damage := _DAMAGED_ENTRY.search(str(fault))):
            return _open_with_front(path, spare, int(damage[1]))
        if spare is not None:
            spare.unlink()
        if not _is_damage(fault):
            raise unusable(path, fault) from fault
        return _open_without_log(path)
    if spare is None:
        return Opened(connection, None)
    if _was_replayed(connection, path, spare):
        spare.unlink()
        return Opened(connection, None)
    return Opened(connection, spare)


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    """The file, attached to an instance of its own: the size of row groups can be said only there."""
    spill = str(_beside(path, ".tmp"))
    connection = duckdb.connect(config={**_SETTINGS, "temp_directory": spill})
    quoted = str(path).replace("'", "''")
    with ExitStack() as undo:
        undo.callback(connection.close)
        connection.execute(f"ATTACH '{quoted}' AS {_CATALOG} (ROW_GROUP_SIZE {_ROW_GROUP})")
        use_file(connection)
        undo.pop_all()
    return connection


def use_file(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Have a new connection mean the file's tables when it names none; each starts without."""
    return connection.execute(f"USE {_CATALOG}")


def _is_damage(fault: duckdb.Error) -> bool:
    """Whether it is the log that can't be replayed."""
    return _UNREPLAYABLE in str(fault) and not isinstance(fault, duckdb.OutOfMemoryException)


def _open_with_front(path: Path, spare: Path, size: int) -> Opened:
    """Open with so many bytes of the log, those before the damage; the whole of it is in `spare`."""
    log = _beside(path, ".wal")
    os.truncate(log, size)
    try:
        connection = _connect(path)
    except duckdb.Error as fault:
        if not _is_damage(fault):
            raise unusable(path, fault) from fault
        log.unlink()
        return Opened(_connect(path), spare)
    # Its first write cuts off the transaction that has lost its end.
    _was_replayed(connection, path, spare)
    return Opened(connection, spare)


def _open_without_log(path: Path) -> Opened:
    logs = [log for suffix in _LOGS if (log := _beside(path, suffix)).exists()]
    asides = [log.rename(_aside(log)) for log in logs]
    try:
        return Opened(_connect(path), asides[0])
    except duckdb.Error as fault:
        raise unusable(path, fault) from fault


def _copy_log(path: Path) -> Path | None:
    """A copy of the log that a crash left, already under the name that it is to be found by.

    None after a clean stop, and after a crash in the middle of a checkpoint, where DuckDB merges two logs
    and checks them against each other.
    """
    log, *others = (_beside(path, suffix) for suffix in _LOGS)
    try:
        if any(other.exists() for other in others) or not log.exists() or log.stat().st_size == 0:
            return None
        return shutil.copyfile(log, _aside(log))
    except OSError as problem:
        raise Unusable(f"cannot read {log}: {problem.strerror}") from problem


def _was_replayed(connection: duckdb.DuckDBPyConnection, path: Path, spare: Path) -> bool:
    """Whether DuckDB took the whole log.

    It stops without a word at an entry with a wrong checksum, and cuts off the rest with the next write. So
    write, and see whether what was there is still there. No checkpoint may come in between.
    """
    try:
        connection.execute("SET checkpoint_threshold = '1TB'")
        connection.begin()
        write_something(connection)
        connection.commit()
        replayed = _starts_with(_beside(path, ".wal"), spare)
        connection.execute(f"SET checkpoint_threshold = '{_CHECKPOINT_AT}'")
    except duckdb.Error as fault:
        connection.close()
        raise unusable(path, fault) from fault
    return replayed


def write_something(connection: duckdb.DuckDBPyConnection) -> None:
    """Write to the log and change nothing, in the open transaction; DuckDB leaves out idle updates."""
    connection.execute("CREATE TABLE written (nothing INTEGER)")
    connection.execute("DROP TABLE written")


def _starts_with(log: Path, spare: Path) -> bool:
    with log.open("rb") as now, spare.open("rb") as before:
        while chunk := before.read(1 << 20):
            if now.read(len(chunk)) != chunk:
                return False
    return True


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _aside(log: Path) -> Path:
    """A free name beside the log that tells when it was last written."""
    written = datetime.fromtimestamp(log.stat().st_mtime, UTC)
    name = f"{log.name}.damaged-{written:%Y%m%dT%H%M%SZ}"
    aside, number = log.with_name(name), 1
    while aside.exists():
        number += 1
        aside = log.with_name(f"{name}-{number}")
    return aside


def unusable(path: Path, fault: duckdb.Error) -> Unusable:
    """Why the file can't be opened, in a line for a person."""
    text = first_line(fault)
    if "lock" in text:
        holder = re.search(r"PID (\d+)", text)
        by = f"process {holder[1]}" if holder else "another process"
        return Unusable(f"{path} is in use by {by}; one server only may have it open")
    if "not a valid DuckDB" in text:
        return Unusable(f"{path} is not a DuckDB database")
    if "Permission denied" in text:
        return Unusable(f"no permission to open {path}")
    return Unusable(f"cannot open {path}: {text}")
