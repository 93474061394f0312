"""The telemetry store as the services see it: `pingup.ports.TelemetryStore` on DuckDB."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from pingup.errors import Unavailable, Unusable
from pingup.model import Deposit, Run, Sample, Scan, Span
from pingup.rollups import Bucket, Rollup
from pingup.storage.duckdb import histories, reading, rollups
from pingup.storage.duckdb.database import Database
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.sequences import read_runs
from pingup.storage.duckdb.sorting import Sorter
from pingup.storage.duckdb.writer import Writer
from pingup.storage.journal import Journal

log = logging.getLogger(__name__)

_READERS = 2
_APPLY_AFTER = 1.0  # seconds that something is only in the journal, at most
P = ParamSpec("P")
T = TypeVar("T")


class DuckDBTelemetry:
    """Samples and scans in one DuckDB file, and beside it a journal of what is to come into it.

    One thread writes, two read and one sorts, each on connections of their own, so that no read waits for a
    write or makes one wait; but what a read is about comes out of the journal first. Every method may raise
    `Unavailable`; the next call tries anew, and opens the file again where that is what it takes.

    `async with await DuckDBTelemetry.open(path) as telemetry:` closes it at the end.
    """

    def __init__(
        self, database: Database, journal: Journal, writer: Writer, writing: ThreadPoolExecutor
    ) -> None:
        """Use `open`, which does the work of opening on the writing thread."""
        self._database = database
        self._journal = journal
        self._writer = writer
        self._writing = writing
        self._reading = ThreadPoolExecutor(_READERS, "telemetry-reader")
        self._sorting = ThreadPoolExecutor(1, "telemetry-sorter")
        self._sorter = Sorter(database)
        self._moving = asyncio.Lock()
        self._samples = histories.SampleHistory()
        self._applying = asyncio.create_task(self._apply())

    @classmethod
    async def open(cls, path: Path, *, journaled_below: int = 0) -> Self:
        """Open the file at `path`, making it or migrating it where needed, and its journal.

        Args:
            path: of the DuckDB file.
            journaled_below: deposits of fewer records go into the journal first. What a crash has left in it
                comes into the tables either way.

        Raises:
            Unusable: another process has it open, it is no DuckDB file, or it or its journal can't be read.
        """
        writing = ThreadPoolExecutor(1, "telemetry-writer")

        def open_files() -> tuple[Database, Journal, Writer]:
            with ExitStack() as undo:
                database = Database(path)
                undo.callback(database.close)
                journal = Journal(_journal_of(path))
                writer = Writer(database, journal, journaled_below=journaled_below)
                try:
                    writer.apply()
                except Unavailable as problem:
                    log.warning("what the last process left in the journal is stored later: %s", problem)
                undo.pop_all()
            return database, journal, writer

        with ExitStack() as undo:
            undo.callback(writing.shutdown, wait=False)
            opened = await asyncio.get_running_loop().run_in_executor(writing, open_files)
            undo.pop_all()
        return cls(*opened, writing)

    @property
    def quarantined(self) -> Path | None:
        """The copy of a log or journal that was found damaged when it was opened, or None.

        What it held beyond the damage is not in the tables.
        """
        return self._database.quarantined or self._journal.quarantined

    async def close(self) -> None:
        """Finish what is under way, write the log into the file and close it."""
        self._sorter.stop()
        self._applying.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await self._applying
        finally:
            await self._end()

    async def _end(self) -> None:
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

    async def _apply(self) -> None:
        """Leave nothing in the journal alone for long."""
        while True:
            await asyncio.sleep(_APPLY_AFTER)
            if self._writer.is_pending():
                # `check` tells why it can't be.
                with suppress(Unavailable):
                    await self._write(self._writer.apply)

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
        return await self._read([agent_id], self._samples.page, agent_id, span)

    async def buckets(self, agent_id: str, rollup: Rollup) -> list[Bucket]:
        """A page of an agent's samples rolled up, only buckets in which there are some.

        Raises:
            Invalid: there are too many samples in a bucket to find percentiles.
        """
        return await self._read([agent_id], rollups.buckets, agent_id, rollup)

    async def newest_samples(self, agent_ids: Sequence[str] | None = None) -> list[Sample]:
        """The newest sample of each agent, of these agents or of all, by agent id."""
        return await self._read(agent_ids, reading.newest_samples, agent_ids)

    async def scans(self, agent_id: str, span: Span) -> list[Scan]:
        """A page of an agent's scans, whole ones, by timestamp."""
        return await self._read([], histories.scans, agent_id, span)

    async def runs(self) -> list[Run]:
        """What was kept of numbered messages, in no order; runs of one stream may touch or overlap."""
        # Those that can't come into the tables now are known too.
        return await self._read(None, read_runs) + self._writer.pending_runs

    async def has(self, agent_id: str) -> bool:
        """Whether anything of this agent is stored."""
        return await self._read([agent_id], reading.has, agent_id)

    async def newest(self) -> datetime | None:
        """The newest moment of all that is stored, by its sender's clock."""
        return await self._read(None, reading.newest)

    async def check(self) -> None:
        """Return if the store can be read, and written: tried only if the last transaction has failed."""
        if self._applying.done():
            raise Unavailable("what is in the journal does not come into the tables any more")
        if self._writer.has_failed:
            await self._write(self._writer.probe)
        await self._read([], reading.check)

    async def _read(
        self,
        about: Collection[str] | None,
        ask: Callable[Concatenate[duckdb.DuckDBPyConnection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Ask the tables, once they have what is pending of the agents that it is `about`, None for all."""
        if self._writer.is_pending(about):
            # Who reads while nothing can be written sees what is there.
            with suppress(Unavailable):
                await self._write(self._writer.apply)
        if self._database.is_broken:
            await self._write(self._writer.heal)

        def answer() -> T:
            with self._database.watched(), self._database.reader() as cursor:
                return ask(cursor, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._reading, answer)


def take_journal(path: Path) -> bool:
    """Bring what a crash has left in the journal into the file at `path`; whether there was something.

    Raises:
        Unusable: as `DuckDBTelemetry.open`, or it can't be stored now.
    """
    database = Database(path)
    with closing(database):
        writer = Writer(database, Journal(_journal_of(path)), journaled_below=0)
        was_pending = writer.is_pending()
        try:
            writer.apply()
        except Unavailable as problem:
            raise Unusable(f"what is in the journal cannot be stored: {problem}") from problem
        finally:
            writer.close()
    return was_pending


def _journal_of(path: Path) -> Path:
    return path.with_suffix(".journal")
