"""All that writes. One thread runs it, so transactions never meet.

A large deposit is a transaction of DuckDB's. Small ones are put into the journal, and brought into the tables
together: before much is pending, or a second later, or as soon as somebody reads what they are about.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import compress

from pingup.errors import Unavailable, Unstorable
from pingup.model import Deposit, Record, Run, Sample, Scan
from pingup.services.numbering import merged
from pingup.storage.duckdb.database import Database
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.intake import Intake
from pingup.storage.duckdb.opening import write_something
from pingup.storage.duckdb.sequences import COMPACT_AT, UNTOUCHED, Sequences
from pingup.storage.duckdb.sorting import forget_stretches
from pingup.storage.duckdb.tables import SampleTable, ScanKey, ScanTable, naive
from pingup.storage.journal import Journal, Written

log = logging.getLogger(__name__)

# From here on a transaction of DuckDB's costs less than an entry and its share of a later one.
JOURNALED_BELOW = 1_000  # records of a deposit
_MOST_PENDING = 5_000  # samples and runs
_MOST_PENDING_BYTES = 1 << 20


class _Pending:
    """What is promised and not yet in the tables."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.runs: list[Run] = []
        self.agents: set[str] = set()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self.samples or self.runs)

    @property
    def is_full(self) -> bool:
        """Whether nothing may be added before it is in the tables."""
        return len(self.samples) + len(self.runs) >= _MOST_PENDING or self._bytes >= _MOST_PENDING_BYTES

    def add(self, written: Written) -> None:
        self.samples.extend(written.samples)
        self.runs.extend(written.runs)
        self.agents.update([sample.agent_id for sample in written.samples])
        self.agents.update([run.agent_id for run in written.runs])
        self._bytes += written.size

    def deposit(self) -> Deposit:
        return Deposit(self.samples, merged(self.runs))


class _Session:
    """A connection with what is kept ready on it, from its opening to the first failure."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self.cursor = cursor
        self.samples: Intake[Sample, Sample] = Intake(SampleTable(), cursor)
        self.scans: Intake[Scan, ScanKey] = Intake(ScanTable(), cursor)
        self.sequences = Sequences(cursor)

    def append(self, pending: _Pending) -> None:
        """Append what this session has judged."""
        if pending:
            with _keeping_promises():
                self.samples.append(pending.samples)
                self.sequences.take(merged(pending.runs))

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

    def __init__(self, database: Database, journal: Journal, *, journaled_below: int) -> None:
        """What a crash has left in the journal is pending. Raises Unusable when the journal can't be read."""
        self._database = database
        self._journal = journal
        self._journaled_below = journaled_below
        self._pending = _Pending()
        for samples, runs in journal.recover():
            self._pending.add(Written(samples, runs, 0))
        self._lease = ExitStack()
        self._session: _Session | None = None
        self._compact_at = COMPACT_AT
        self._is_journal_failing = False
        self.has_failed = False

    def is_pending(self, agent_ids: Collection[str] | None = None) -> bool:
        """Whether something of one of these agents, or of any, is not in the tables yet. For any thread."""
        pending = self._pending.agents
        return bool(pending) if agent_ids is None else not pending.isdisjoint(agent_ids)

    @property
    def pending_runs(self) -> list[Run]:
        """The runs that are not in the tables yet. For any thread."""
        return list(self._pending.runs)

    def store(self, deposit: Deposit) -> list[bool]:
        """As `TelemetryStore.store`."""
        if len(deposit.records) < self._journaled_below and not self._pending.is_full:
            is_new = self._promise(deposit)
            if is_new is not None:
                return is_new
        return self._store(deposit)

    def apply(self) -> None:
        """Bring what is pending into the tables."""
        if self._pending:
            self._store(Deposit(()))
        else:
            self._keep_promises()

    def _promise(self, deposit: Deposit) -> list[bool] | None:
        """Put a deposit into the journal; None for one that belongs into the tables at once."""
        samples = [record for record in deposit.records if isinstance(record, Sample)]
        if len(samples) < len(deposit.records):
            return None
        with self._database.watched():
            intake = self._ready().samples
            sifted = intake.judge(samples)
        if sifted is None:
            return None
        is_new = sifted.is_new(sifted.repeats)
        new = samples if all(is_new) else list(compress(samples, is_new))
        try:
            written = self._journal.add(new, deposit.runs)
        except Unavailable as problem:
            if not self._is_journal_failing:
                log.warning("small deposits go into the tables at once: %s", problem)
            self._is_journal_failing = True
            return None
        self._is_journal_failing = False
        intake.keep(sifted)
        self._pending.add(written)
        return is_new

    def _store(self, deposit: Deposit) -> list[bool]:
        with self._transaction() as session:
            session.append(self._pending)
            is_new = session.take(deposit)
        session.settle()
        self._keep_promises()
        if session.sequences.appended > self._compact_at:
            self._compact()
        return is_new

    def _keep_promises(self) -> None:
        """What was pending is in the tables, so whatever is in the journal may go."""
        self._pending = _Pending()
        try:
            self._journal.clear()
        except Unavailable as problem:
            # Brought in again after a crash it would be found to be there.
            log.warning("%s", problem)

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
        # A crash must not bring it back.
        self.apply()
        self._journal.clear()
        with self._transaction() as session:
            session.cursor.execute("DELETE FROM metrics WHERE agent_id = ?", [agent_id])
            session.cursor.execute("DELETE FROM discovery WHERE agent_id = ?", [agent_id])
            session.cursor.execute("DELETE FROM sequences WHERE agent_id = ?", [agent_id])
        session.samples.forget(agent_id)
        session.scans.forget(agent_id)

    def forget(self, samples_before: datetime, scans_before: datetime) -> None:
        """Delete what is older, of sorted stretches whole ones; the bounds stay, they may be too high."""
        # What is pending may be too old as well, or the last that was heard of a stream.
        self.apply()
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
        """Bring in what is pending, or leave it in the journal, and give the connection back."""
        try:
            self.apply()
        except Unavailable as problem:
            log.error("what came last is left in the journal, and is stored at the next start: %s", problem)
        self._journal.close()
        self._end_session()

    @contextmanager
    def _transaction(self) -> Iterator[_Session]:
        with self._database.watched():
            session = self._ready()
            with self._committed(session):
                yield session

    def _ready(self) -> _Session:
        """The session, a new one if there is none. What it remembers covers what is pending."""
        self.heal()
        if self._session is not None:
            return self._session
        session = self._start_session()
        if self._pending:
            # Some of it may be in the tables: the last transaction has failed, or the last process.
            with self._committed(session), _keeping_promises():
                session.take(self._pending.deposit())
            session.settle()
            self._keep_promises()
        return session

    @contextmanager
    def _committed(self, session: _Session) -> Iterator[None]:
        with ExitStack() as undo:
            undo.callback(self._end_session)
            undo.callback(session.discard)
            undo.callback(self._fail)
            session.cursor.begin()
            yield
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


@contextmanager
def _keeping_promises() -> Iterator[None]:
    """What is in the journal is never given up. Its values were looked at, so this should not happen."""
    try:
        yield
    except Unstorable as problem:
        raise Unavailable(f"what is in the journal cannot be stored: {problem}") from problem
