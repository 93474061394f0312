"""All that writes. One thread runs it, so transactions never meet."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime

from pingup.errors import Unavailable
from pingup.model import Deposit, Record, Sample, Scan
from pingup.storage.duckdb.database import Database
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.intake import Intake
from pingup.storage.duckdb.opening import write_something
from pingup.storage.duckdb.sequences import COMPACT_AT, UNTOUCHED, Sequences
from pingup.storage.duckdb.sorting import forget_stretches
from pingup.storage.duckdb.tables import SampleTable, ScanKey, ScanTable, naive

log = logging.getLogger(__name__)


class _Session:
    """A connection with what is kept ready on it, from its opening to the first failure."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self.cursor = cursor
        self.samples: Intake[Sample, Sample] = Intake(SampleTable(), cursor)
        self.scans: Intake[Scan, ScanKey] = Intake(ScanTable(), cursor)
        self.sequences = Sequences(cursor)

    def take(self, deposit: Deposit) -> list[bool]:
        self.sequences.take(deposit.runs)
        return self._take_records(deposit.records)

    def _take_records(self, records: Sequence[Record]) -> list[bool]:
        samples = [record for record in records if isinstance(record, Sample)]
        if len(samples) == len(records):
            return self.samples.take(samples)
        scans = [record for record in records if isinstance(record, Scan)]
        new_samples = iter(self.samples.take(samples))
        new_scans = iter(self.scans.take(scans))
        return [next(new_samples if isinstance(record, Sample) else new_scans) for record in records]

    def settle(self) -> None:
        self.samples.settle()
        self.scans.settle()
        self.sequences.settle()

    def discard(self) -> None:
        self.samples.discard()
        self.scans.discard()
        self.sequences.discard()


class Writer:
    """Runs each call as one transaction. All methods belong on the one writing thread.

    Every method may raise `Unavailable`; then nothing of the call was committed, as far as DuckDB could tell.
    Any failure ends the session: its connection rolls back, its appenders are dropped, and what it
    remembered is read from the tables again, so nothing half-done can reach a later transaction.
    `has_failed` tells that the last transaction did not come to its end.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lease = ExitStack()
        self._session: _Session | None = None
        self._compact_at = COMPACT_AT
        self.has_failed = False

    def store(self, deposit: Deposit) -> list[bool]:
        """As `TelemetryStore.store`."""
        with self._transaction() as session:
            is_new = session.take(deposit)
        session.settle()
        if session.sequences.appended > self._compact_at:
            self._compact()
        return is_new

    def _compact(self) -> None:
        """Compact the runs, in transactions of their own: what was stored is stored, whatever comes of it."""
        try:
            with self._transaction() as session:
                parts = session.sequences.parts()
            for part in range(parts):
                with self._transaction() as session:
                    session.sequences.compact(part, parts)
            with self._transaction() as session:
                left = session.sequences.count()
                session.sequences.appended = 0
        except Unavailable as problem:
            self._compact_at *= 2
            log.warning("the runs of numbered messages are compacted later: %s", problem)
        else:
            # So each row is read a few times at most, however many there are.
            self._compact_at = max(COMPACT_AT, 2 * left)

    def purge(self, agent_id: str) -> None:
        """Delete all of an agent's telemetry, and what is known of its streams."""
        with self._transaction() as session:
            session.cursor.execute("DELETE FROM metrics WHERE agent_id = ?", [agent_id])
            session.cursor.execute("DELETE FROM discovery WHERE agent_id = ?", [agent_id])
            session.cursor.execute("DELETE FROM sequences WHERE agent_id = ?", [agent_id])
        session.samples.forget(agent_id)
        session.scans.forget(agent_id)

    def forget(self, samples_before: datetime, scans_before: datetime) -> None:
        """Delete what is older, of sorted stretches whole ones; the bounds stay, they may be too high."""
        with self._transaction() as session:
            samples_from = forget_stretches(session.cursor, "metrics", naive(samples_before))
            scans_from = forget_stretches(session.cursor, "discovery", naive(scans_before))
            session.cursor.execute("DELETE FROM metrics WHERE timestamp < ?", [samples_from])
            session.cursor.execute("DELETE FROM discovery WHERE scan_timestamp < ?", [scans_from])
            session.cursor.execute(UNTOUCHED, [naive(min(samples_before, scans_before))])

    def probe(self) -> None:
        """Return if writing works."""
        with self._transaction() as session:
            write_something(session.cursor)

    def heal(self) -> None:
        """Open a broken database anew."""
        if self._database.is_broken:
            self._end_session()
            self._database.reopen()

    def close(self) -> None:
        """Give the connection back."""
        self._end_session()

    @contextmanager
    def _transaction(self) -> Iterator[_Session]:
        with self._database.watched():
            self.heal()
            session = self._session or self._start_session()
            with ExitStack() as undo:
                undo.callback(self._end_session)
                undo.callback(session.discard)
                undo.callback(self._fail)
                session.cursor.begin()
                yield session
                session.cursor.commit()
                undo.pop_all()
            self.has_failed = False

    def _fail(self) -> None:
        self.has_failed = True

    def _start_session(self) -> _Session:
        self._session = _Session(self._lease.enter_context(self._database.cursor()))
        return self._session

    def _end_session(self) -> None:
        self._session = None
        self._lease.close()
