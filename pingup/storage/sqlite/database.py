"""`pingup.db`, open: one connection that writes and checkpoints, another one that reads."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from pingup.errors import Unavailable
from pingup.storage.sqlite.failures import cannot_work, unavailable, unusable
from pingup.storage.sqlite.group_commit import GroupCommit, Work
from pingup.storage.sqlite.migrations import BUSY_TIMEOUT, check_version, migrate

T = TypeVar("T")
Parameters = Sequence[Any] | Mapping[str, Any]


class Database:
    """Reads of one statement each, and writes of a transaction each."""

    def __init__(self, reader: aiosqlite.Connection, writer: GroupCommit | None) -> None:
        """Without a writer it is only read."""
        self._reader = reader
        self._writer = writer

    async def read(self, statement: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """All rows of one SELECT: what was committed at one moment.

        Raises:
            Unavailable: SQLite cannot work now.
        """
        try:
            # aiosqlite's annotation says less than sqlite3 takes: a mapping binds `:names`.
            bound: Any = parameters
            return list(await self._reader.execute_fetchall(statement, bound))
        except sqlite3.Error as problem:
            if cannot_work(problem):
                raise unavailable(problem) from problem
            raise

    async def write(self, work: Work[T]) -> T:
        """Run `work` as a transaction, see `GroupCommit.write`.

        Raises:
            Unavailable: SQLite cannot work now, or the database is only read.
        """
        if self._writer is None:
            raise Unavailable("the registry is open for reading only")
        return await self._writer.write(work)


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """Migrate and open the file; closing finishes the writes that wait and checkpoints.

    Raises:
        Unusable: see `migrate`.
    """
    await asyncio.to_thread(migrate, path)
    # The reader is closed first, so that the writer is the last one and checkpoints (SQLite before 3.51.3
    # may lose a write when two connections do).
    async with _connect(path) as connection, _connect(path) as reader:
        await reader.execute("PRAGMA query_only = ON")
        await reader.create_function("casefold", 1, str.casefold, deterministic=True)
        async with GroupCommit(connection) as writer:
            yield Database(reader, writer)


@asynccontextmanager
async def open_database_read_only(path: Path) -> AsyncIterator[Database]:
    """Open the file beside a server that may be running; it is neither made, migrated nor checkpointed.

    Raises:
        Unusable: see `check_version`.
    """
    await asyncio.to_thread(check_version, path)
    async with _connect(path) as reader:
        await reader.execute("PRAGMA query_only = ON")
        yield Database(reader, None)


@asynccontextmanager
async def _connect(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    """A connection in autocommit mode, whose rows have names."""
    connection = aiosqlite.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        await connection
    except sqlite3.Error as problem:
        raise unusable(path, problem) from problem
    try:
        connection.row_factory = sqlite3.Row
        await connection.execute("PRAGMA synchronous = FULL")
        await connection.execute("PRAGMA foreign_keys = ON")
        yield connection
    finally:
        await connection.close()
