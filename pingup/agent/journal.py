"""The journal of commands: written before a command runs, so that none ever runs twice."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from pingup.clock import rfc3339
from pingup.errors import Unavailable, Unusable
from pingup.model import CommandStatus

CAPACITY = 4_096
INTERRUPTED = b'{"error":"interrupted"}'
_ENDS = ("completed", "failed", "rejected")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (
  command_id TEXT PRIMARY KEY,
  status     TEXT NOT NULL,
  result     TEXT,
  expires_at TEXT NOT NULL,
  reported   INTEGER NOT NULL DEFAULT 0
)
"""


class Entry(msgspec.Struct, frozen=True):
    """How far a command has come; `result` is JSON, at an end."""

    command_id: str
    status: CommandStatus
    result: bytes | None


class JournalFull(Exception):
    """Every command in the journal still lives; one more could not be remembered."""


T = TypeVar("T")


class Journal:
    """A table in SQLite with a thread of its own; every change is on the disk when its call returns.

    It keeps `capacity` commands. Beyond that it forgets the oldest of those that have expired, which
    would not run again anyway. Every method raises `Unavailable` when the disk doesn't take or give it.
    """

    def __init__(self, database: sqlite3.Connection, thread: ThreadPoolExecutor, capacity: int) -> None:
        self._database = database
        self._thread = thread
        self._capacity = capacity

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, capacity: int = CAPACITY) -> AsyncIterator[Journal]:
        """Open the journal, a new one if there is none.

        Raises:
            Unusable: the file can't be used.
        """
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="journal") as thread:
            try:
                database = await loop.run_in_executor(thread, _connect, path)
            except (OSError, sqlite3.Error) as problem:
                raise Unusable(f"cannot use the journal {path}: {problem}") from problem
            try:
                yield cls(database, thread, capacity)
            finally:
                thread.submit(database.close)

    async def begin(self, command_id: str, expires_at: datetime, now: datetime) -> Entry | None:
        """Write a command down as acknowledged; if it already stood there, answer how far it has come.

        Raises:
            JournalFull: there is no room, and nothing was written.
        """
        return await self._call(lambda: self._begin(command_id, rfc3339(expires_at), rfc3339(now)))

    def _begin(self, command_id: str, expires_at: str, now: str) -> Entry | None:
        known = self._select("WHERE command_id = ?", command_id)
        if known:
            return known[0]
        (count,) = self._database.execute("SELECT count(*) FROM journal").fetchone()
        if count >= self._capacity:
            self._forget(now)
        self._database.execute(
            "INSERT INTO journal (command_id, status, expires_at) VALUES (?, ?, ?)",
            (command_id, CommandStatus.ACKNOWLEDGED.value, expires_at),
        )
        return None

    def _forget(self, now: str) -> None:
        """Make room for one command."""
        forgotten = self._database.execute(
            "DELETE FROM journal WHERE command_id = (SELECT command_id FROM journal"
            " WHERE expires_at < ? AND status IN (?, ?, ?) ORDER BY rowid LIMIT 1)",
            (now, *_ENDS),
        )
        if not forgotten.rowcount:
            raise JournalFull(f"the journal holds {self._capacity:,} commands that still live")

    async def end(self, command_id: str, status: CommandStatus, result: bytes) -> None:
        """The command has ended."""
        await self._call(
            lambda: self._change(
                "SET status = ?, result = ? WHERE command_id = ?", status.value, result.decode(), command_id
            )
        )

    async def interrupt(self) -> None:
        """What had begun when the agent last stopped has failed: whether it did its work, nobody knows."""
        await self._call(
            lambda: self._change(
                "SET status = 'failed', result = ? WHERE status NOT IN (?, ?, ?)",
                INTERRUPTED.decode(),
                *_ENDS,
            )
        )

    async def unreported(self) -> list[Entry]:
        """The ended commands that the server may not know to have ended, oldest first."""
        return await self._call(
            lambda: self._select("WHERE NOT reported AND status IN (?, ?, ?) ORDER BY rowid", *_ENDS)
        )

    async def reported(self, command_id: str) -> None:
        """The server knows how the command ended."""
        await self._call(lambda: self._change("SET reported = 1 WHERE command_id = ?", command_id))

    def _change(self, change: str, *values: str) -> None:
        self._database.execute(f"UPDATE journal {change}", values)

    def _select(self, condition: str, *values: str) -> list[Entry]:
        rows = self._database.execute(f"SELECT command_id, status, result FROM journal {condition}", values)  # noqa: S608 - every text is in this file
        return [
            Entry(command_id, CommandStatus(status), None if result is None else result.encode())
            for command_id, status, result in rows
        ]

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as problem:
            raise Unavailable(f"the journal can't be used now: {problem}") from problem


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Autocommit: each statement is a transaction, and FULL puts it on the disk before it returns.
    database = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    try:
        # A second agent on the same directory gets an error instead of a share in the journal.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database
