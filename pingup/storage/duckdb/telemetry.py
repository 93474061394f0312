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

from pingup.errors import Unavailable
from pingup.model import Deposit, Run, Sample, Scan, Span
from pingup.rollups import Bucket, Rollup
from pingup.storage.duckdb import histories, reading, rollups
from pingup.storage.duckdb.database import Database
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.sequences import read_runs
from pingup.storage.duckdb.sorting import Sorter
from pingup.storage.duckdb.writer import Writer

log = logging.getLogger(__name__)

_READERS = 2
P = ParamSpec("P")
T = TypeVar("T")


class DuckDBTelemetry:
    """Samples and scans in one DuckDB file.

    One thread writes, two read and one sorts, each on connections of their own, so that no read waits for a
    write or makes one wait. Every method may raise `Unavailable`; the next call tries anew, and opens the
    file again where that is what it takes.

    `async with await DuckDBTelemetry.open(path) as telemetry:` closes it at the end.
    """

    def __init__(self, database: Database, writing: ThreadPoolExecutor) -> None:
        """Use `open`, which does the work of opening on the writing thread."""
        self._database = database
        self._writer = Writer(database)
        self._writing = writing
        self._reading = ThreadPoolExecutor(_READERS, "telemetry-reader")
        self._sorting = ThreadPoolExecutor(1, "telemetry-sorter")
        self._sorter = Sorter(database)
        self._moving = asyncio.Lock()
        self._samples = histories.SampleHistory()

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
        self._sorter.stop()
        try:
            await self._write(self._close)
        except Unavailable as problem:
            log.error("the telemetry database was not closed cleanly, its log is replayed: %s", problem)
        finally:
            for threads in (self._writing, self._reading, self._sorting):
                threads.shutdown(wait=False)

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

    async def store(self, deposit: Deposit) -> list[bool]:
        """Commit it in one transaction; for each record whether it was new, False for a repeat.

        Raises:
            Unstorable: a column can't hold a value of it; nothing was stored.
        """
        return await self._write(self._writer.store, deposit)

    async def purge(self, agent_id: str) -> None:
        """Delete all of an agent's telemetry, and what is known of its streams."""
        async with self._moving:
            await self._write(self._writer.purge, agent_id)

    async def forget(self, samples_before: datetime, scans_before: datetime) -> None:
        """Delete what is older than the retention, and streams of which nothing was heard since.

        The space is used again, the file does not shrink.
        """
        async with self._moving:
            await self._write(self._writer.forget, samples_before, scans_before)

    async def sort(self, before: datetime) -> bool:
        """Sort the oldest stretch that ended before, so that it is read faster; whether there was one."""
        # Of two who delete the same rows at a time one would fail.
        async with self._moving:
            return await asyncio.get_running_loop().run_in_executor(self._sorting, self._sorter.sort, before)

    async def _write(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writing, lambda: work(*args, **kwargs))

    # --- reading -----------------------------------------------------------------------------------

    async def samples(self, agent_id: str, span: Span) -> list[Sample]:
        """A page of an agent's samples, by timestamp; records of one moment always in the same order."""
        return await self._read(self._samples.page, agent_id, span)

    async def buckets(self, agent_id: str, rollup: Rollup) -> list[Bucket]:
        """A page of an agent's samples rolled up, only buckets in which there are some.

        Raises:
            Invalid: there are too many samples in a bucket to find percentiles.
        """
        return await self._read(rollups.buckets, agent_id, rollup)

    async def newest_samples(self, agent_ids: Sequence[str] | None = None) -> list[Sample]:
        """The newest sample of each agent, of these agents or of all, by agent id."""
        return await self._read(reading.newest_samples, agent_ids)

    async def scans(self, agent_id: str, span: Span) -> list[Scan]:
        """A page of an agent's scans, whole ones, by timestamp."""
        return await self._read(histories.scans, agent_id, span)

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
            with self._database.watched(), self._database.reader() as cursor:
                return ask(cursor, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._reading, answer)
