"""Which numbered messages came, in the table `sequences`: appended run by run, compacted now and then.

Every commit appends the runs of its messages, which costs the same however much is known already. Once much
more was appended than the last compaction had left, runs that touch are merged.
"""

from __future__ import annotations

from collections.abc import Sequence

from pingup.model import Fate, Run
from pingup.services.ledger import MAX_STREAMS
from pingup.services.runs import MAX_RUNS
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.faults import refusing_values
from pingup.storage.duckdb.tables import Row, aware, naive

# One more than the ledger keeps, so that it can tell whether there were more.
MAX_STORED_RUNS = MAX_RUNS + 1  # of a stream and fate
COMPACT_AT = 20_000  # rows appended, at least
COMPACTED_AT_ONCE = 50_000  # rows, about; more take more memory than DuckDB is given
_PART = "hash(agent_id) % {parts} = {part}"

# DuckDB counts a growing frame with a FILTER in quadratic time, and sums it in linear time.
_COMPACTED = """
    CREATE OR REPLACE TEMP TABLE compacted AS
    WITH marked AS (
        SELECT
            *,
            low - 1 > max(high) OVER (
                PARTITION BY agent_id, stream, fate
                ORDER BY low, high
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS is_apart
        FROM sequences
        WHERE {part}
    ),
    counted AS (
        SELECT
            *,
            sum(coalesce(is_apart, false)::INTEGER) OVER (
                PARTITION BY agent_id, stream, fate ORDER BY low, high ROWS UNBOUNDED PRECEDING
            ) AS run
        FROM marked
    ),
    runs AS (
        SELECT
            agent_id,
            stream,
            fate,
            min(low) AS low,
            max(high) AS high,
            max(first) AS first,
            arg_min(low_at, low) AS low_at,
            arg_max(high_at, high) AS high_at,
            max(received_at) AS received_at
        FROM counted
        GROUP BY agent_id, stream, fate, run
    ),
    streams AS (
        SELECT agent_id, stream, max(first) AS highest_first, max(received_at) AS heard_at
        FROM runs
        GROUP BY agent_id, stream
        QUALIFY row_number() OVER (PARTITION BY agent_id ORDER BY heard_at DESC, stream) <= {max_streams}
    )
    SELECT agent_id, stream, fate, low, high, highest_first, low_at, high_at, heard_at
    FROM runs
    JOIN streams USING (agent_id, stream)
    QUALIFY row_number() OVER (PARTITION BY agent_id, stream, fate ORDER BY low DESC) <= {max_runs}
"""
_RUNS = """
    SELECT agent_id, stream, fate, low, high, first, low_at, high_at, received_at
    FROM sequences
"""
UNTOUCHED = """
    DELETE FROM sequences
    WHERE (agent_id, stream) NOT IN (SELECT (agent_id, stream) FROM sequences WHERE received_at >= ?)
"""
_AT_A_TIME = 1000


class Sequences:
    """Takes runs into an open transaction. After any failure it must be thrown away with its cursor.

    `appended` is how many rows were committed since the last compaction.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self._appender = cursor.appender("sequences")
        # All that is there may be still to be merged.
        self.appended = self.count()
        self._uncommitted = 0

    def take(self, runs: Sequence[Run]) -> None:
        """Append runs.

        Raises:
            Unstorable: the table can't hold one of them.
        """
        if not runs:
            return
        with refusing_values():
            self._appender.append_rows(map(_row, runs))
            self._appender.flush()
        self._uncommitted += len(runs)

    def settle(self) -> None:
        """Count what was taken, now that it is committed."""
        self.appended += self._uncommitted
        self._uncommitted = 0

    def discard(self) -> None:
        """Drop the rows that a failure has left in the appender."""
        self._appender.clear()

    def parts(self) -> int:
        """In how many parts the table is to be compacted."""
        return 1 + self.count() // COMPACTED_AT_ONCE

    def compact(self, part: int, parts: int) -> None:
        """Merge what touches, and forget streams and runs beyond the bounds, in the open transaction.

        Only of one part of the agents; `part` counts from 0.
        """
        these = _PART.format(part=part, parts=parts)
        compacted = _COMPACTED.format(part=these, max_streams=MAX_STREAMS, max_runs=MAX_STORED_RUNS)
        self._cursor.execute(compacted)
        self._cursor.execute(f"DELETE FROM sequences WHERE {these}")  # noqa: S608 - numbers of our own
        self._cursor.execute("INSERT INTO sequences FROM compacted")
        self._cursor.execute("DROP TABLE compacted")

    def count(self) -> int:
        """How many rows there are."""
        row = self._cursor.execute("SELECT count(*) FROM sequences").fetchone()
        return int(row[0]) if row else 0


def read_runs(cursor: duckdb.DuckDBPyConnection) -> list[Run]:
    """All runs of the table, those of one commit merged, of different commits not."""
    cursor.execute(_RUNS)
    runs: list[Run] = []
    while rows := cursor.fetchmany(_AT_A_TIME):
        runs.extend(map(_read, rows))
    return runs


def _row(run: Run) -> Row:
    return (
        run.agent_id,
        run.stream,
        run.fate.value,
        run.low,
        run.high,
        run.first,
        naive(run.low_at),
        naive(run.high_at),
        naive(run.received_at),
    )


def _read(row: Row) -> Run:
    agent_id, stream, fate, low, high, first, low_at, high_at, received_at = row
    return Run(
        agent_id, stream, Fate(fate), low, high, first, aware(low_at), aware(high_at), aware(received_at)
    )
