"""The telemetry store as the services see it: `pingup.ports.TelemetryStore` on DuckDB."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import duckdb

from pingup.errors import Unavailable
from pingup.model import Deposit, Run, Sample, Scan, Span
from pingup.storage.duckdb import reading
from pingup.storage.duckdb.database import Database
from pingup.storage.duckdb.sequences import read_runs
from pingup.storage.duckdb.writer import Writer

log = logging.getLogger(__name__)

_READERS = 2
P = ParamSpec("P")
T = TypeVar("T")


class DuckDBTelemetry:
    """Samples and scans in one DuckDB file.

    One thread writes and two read, each on connections of their own, so that no read waits for a write or
    makes one wait. Every method may raise `Unavailable`; the next call tries anew, and opens the file again
    where that is what it takes.

    `async with await DuckDBTelemetry.open(path) as telemetry:` closes it at the end.
    """

    def __init__(self, database: Database, writing: ThreadPoolExecutor) -> None:
        """Use `open`, which does the work of opening on the writing thread."""
        self._database = database
        self._writer = Writer(database)
        self._writing = writing
        self._reading = ThreadPoolExecutor(_READERS, "telemetry-reader")

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the file at `path`, making it or migrating it where needed.

        Raises:
            Unusable: another process has it open, it is no DuckDB file, or it can't be read.
        """
        writing = ThreadPoolExecutor(1, "telemetry-writer")
        with ExitStack() as undo:
            undo.callback(writing.shutdown, wait=False)
            database = await asyncio.get_running_loop().run_in_executor(writing, Database, path)
            undo.pop_all()
        return cls(database, writing)

    @property
    def quarantined(self) -> Path | None:
        """Where a damaged write-ahead log was put when the file was opened, or None.

        What it held beyond the damage is not in the tables.
        """
        return self._database.quarantined

    async def close(self) -> None:
        """Finish what is under way, write the log into the file and close it."""
        try:
            await self._write(self._close)
        except Unavailable as problem:
            log.error("the telemetry database was not closed cleanly, its log is replayed: %s", problem)
        finally:
            self._writing.shutdown(wait=False)
            self._reading.shutdown(wait=False)

    def _close(self) -> None:
        with self._database.watched():
            self._writer.close()
            self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- writing -----------------------------------------------------------------------------------

    async def store(self, deposits: Sequence[Deposit]) -> list[bool]:
        """Commit all of them in one transaction; for each record whether it was new, False for a repeat.

        Raises:
            Unstorable: a column can't hold a value of one of them; nothing of the batch was stored.
        """
        return await self._write(self._writer.store, deposits)

    async def purge(self, agent_id: str) -> None:
        """Delete all of an agent's telemetry, and what is known of its streams."""
        await self._write(self._writer.purge, agent_id)

    async def forget(self, samples_before: datetime, scans_before: datetime) -> None:
        """Delete what is older than the retention, and streams of which nothing was heard since.

        The space is used again, the file does not shrink.
        """
        await self._write(self._writer.forget, samples_before, scans_before)

    async def _write(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writing, lambda: work(*args, **kwargs))

    # --- reading -----------------------------------------------------------------------------------

    async def samples(self, agent_id: str, span: Span) -> list[Sample]:
        """A page of an agent's samples, by timestamp; records of one moment always in the same order."""
        return await self._read(reading.samples, agent_id, span)

    async def newest_samples(self, agent_ids: Sequence[str] | None = None) -> list[Sample]:
        """The newest sample of each agent, of these agents or of all, by agent id."""
        return await self._read(reading.newest_samples, agent_ids)

    async def scans(self, agent_id: str, span: Span) -> list[Scan]:
        """A page of an agent's scans, whole ones, by timestamp."""
        return await self._read(reading.scans, agent_id, span)

    async def runs(self) -> list[Run]:
        """What was kept of numbered messages, in no order; runs of one stream may touch or overlap."""
        return await self._read(read_runs)

    async def has(self, agent_id: str) -> bool:
        """Whether anything of this agent is stored."""
        return await self._read(reading.has, agent_id)

    async def newest(self) -> datetime | None:
        """The newest moment of all that is stored, by its sender's clock."""
        return await self._read(reading.newest)

    async def check(self) -> None:
        """Return if the store can be read, and written: tried only if the last transaction has failed."""
        if self._writer.has_failed:
            await self._write(self._writer.probe)
        await self._read(reading.check)

    async def _read(
        self, ask: Callable[Concatenate[duckdb.DuckDBPyConnection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._database.is_broken:
            await self._write(self._writer.heal)

        def answer() -> T:
            with self._database.watched(), self._database.cursor() as cursor:
                return ask(cursor, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._reading, answer)
