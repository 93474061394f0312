"""Telemetry that has grown cold is sorted by agent and time: so one agent's month is read in milliseconds.

As it comes, the rows of all agents lie mixed, and DuckDB decodes 2,048 rows to read any of them. So stretches
of time that have ended are written again, in the same table: one transaction inserts their rows in order,
deletes the rows as they were, and notes the stretch in the table `sorted`. It runs beside the
writing thread, on a connection of its own. What comes late stays where it was stored.

Records of one moment keep the order in which they were stored. A crash undoes the transaction and nothing
else. When another one deletes any of the same rows meanwhile, DuckDB lets only one of the two be committed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pingup.storage.duckdb.database import Database
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.tables import Row, naive

log = logging.getLogger(__name__)


class _Sorted(NamedTuple):
    """A table that is sorted: its column of moments, and the text column that may be wide."""

    table: str
    moment: str
    text: str


_TABLES = (_Sorted("metrics", "timestamp", "extra"), _Sorted("discovery", "scan_timestamp", "ports"))

# What is in braces is fixed text, names of tables and columns; values are always parameters.
_DONE = "SELECT max(until) FROM sorted WHERE name = '{table}'"
_NOTE = "INSERT INTO sorted VALUES ('{table}', $start, $end)"
_OLDEST = "SELECT {moment} FROM {table} WHERE {moment} >= $start ORDER BY {moment} LIMIT 1"
_COUNT = "SELECT count(*) FROM {table} WHERE {moment} >= $start AND {moment} < $end"
_AGENTS = """
    SELECT agent_id, count(*), coalesce(sum(strlen({text})), 0), max(rowid)
    FROM {table}
    WHERE {moment} >= $start AND {moment} < $end
    GROUP BY agent_id
    ORDER BY agent_id
"""
_INSERT = """
    INSERT INTO {table}
    SELECT *
    FROM {table}
    WHERE {moment} >= $start AND {moment} < $end
        AND agent_id BETWEEN $first AND $last
        AND rowid <= $row
    ORDER BY agent_id, {moment}, rowid
"""
_DELETE = "DELETE FROM {table} WHERE {moment} >= $start AND {moment} < $end AND rowid <= $row"

_WITHIN = "SELECT start FROM sorted WHERE name = $name AND start < $moment AND until > $moment"
_FORGET = "DELETE FROM sorted WHERE name = $name AND until <= $moment"

_DAY = timedelta(days=1)
# The rows of a stretch: enough that some agents fill whole row groups, and done in a second or so.
_MOST = 1_000_000
# What is sorted by one statement must fit into a fraction of DuckDB's memory, which commits need meanwhile.
_MOST_AT_ONCE = 49_152
_MOST_BYTES_AT_ONCE = 6_000_000
# Rows with longer texts on average are left as they are: one statement for few of them reads too many.
_WIDE = 256
_BEGINNING = datetime(1, 1, 1)


class _Stretch(NamedTuple):
    """A stretch of time that has ended: from `start`, to before `end`."""

    start: datetime
    end: datetime


class _Agent(NamedTuple):
    """What one agent has in a stretch: rows, bytes of text, and the row that was stored last."""

    agent_id: str
    rows: int
    size: int
    last_row: int


class _Portion(NamedTuple):
    """What one statement sorts: some agents that follow each other, or of one with many rows a part."""

    first: str
    last: str
    start: datetime
    end: datetime


class _Few(NamedTuple):
    """Agents that follow each other, and what they have in a stretch."""

    first: str
    last: str
    rows: int
    size: int

    @property
    def parts(self) -> int:
        """Into how many statements their rows must be divided."""
        return max(-(-self.rows // _MOST_AT_ONCE), -(-self.size // _MOST_BYTES_AT_ONCE))

    def divided(self, stretch: _Stretch) -> Iterator[_Portion]:
        """Their rows; those of a single one that has too many by parts of the stretch."""
        length = (stretch.end - stretch.start) / self.parts
        starts = [stretch.start + part * length for part in range(self.parts)]
        for start, end in zip(starts, [*starts[1:], stretch.end], strict=True):
            yield _Portion(self.first, self.last, start, end)


class Sorter:
    """Sorts stretch by stretch, each in a transaction. One thread at a time may use it; any may stop it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_stopped = threading.Event()

    def sort(self, before: datetime) -> bool:
        """Sort the oldest stretch of a table that ended before; whether there was one in any table.

        Raises:
            Unavailable: it could not be done now; everything is as it was.
        """
        return any(self._sort(names, naive(before)) for names in _TABLES if not self._is_stopped.is_set())

    def stop(self) -> None:
        """Give up what is under way, soon; what was sorted stays so. No more is sorted."""
        self._is_stopped.set()

    def _sort(self, names: _Sorted, before: datetime) -> bool:
        # Closing the cursor rolls back whatever was not committed.
        with self._database.watched(), self._database.cursor() as cursor:
            cursor.begin()
            stretch = _next_stretch(cursor, names, before)
            if stretch is None or not self._rewrite(cursor, names, stretch):
                return False
            _ask(cursor, _NOTE, names, stretch._asdict())
            cursor.commit()
        log.debug("%s is sorted up to %s", names.table, stretch.end)
        return True

    def _rewrite(self, cursor: duckdb.DuckDBPyConnection, names: _Sorted, stretch: _Stretch) -> bool:
        """Write the rows again in order, if that is worth it; False if it was stopped on the way."""
        agents = [_Agent(*row) for row in _ask(cursor, _AGENTS, names, stretch._asdict())]
        rows, size = sum(agent.rows for agent in agents), sum(agent.size for agent in agents)
        if len(agents) < 2 or size > _WIDE * rows:
            return True
        last = {"row": max(agent.last_row for agent in agents)}
        for portion in _portions(agents, stretch):
            if self._is_stopped.is_set():
                return False
            _ask(cursor, _INSERT, names, {**portion._asdict(), **last})
        _ask(cursor, _DELETE, names, {**stretch._asdict(), **last})
        return True


def _ask(
    cursor: duckdb.DuckDBPyConnection, statement: str, names: _Sorted, values: Mapping[str, Any]
) -> list[Row]:
    return cursor.execute(statement.format_map(names._asdict()), values).fetchall()


def _next_stretch(cursor: duckdb.DuckDBPyConnection, names: _Sorted, before: datetime) -> _Stretch | None:
    """What comes after all that is done: the rest of a day, or of one with many rows a part."""
    [(done,)] = _ask(cursor, _DONE, names, {})
    oldest = _ask(cursor, _OLDEST, names, {"start": done or _BEGINNING})
    if not oldest:
        return None
    midnight = oldest[0][0].replace(hour=0, minute=0, second=0, microsecond=0)
    start = max(done or _BEGINNING, midnight)
    length = midnight + _DAY - start
    while length > timedelta(seconds=1) and _count(cursor, names, _Stretch(start, start + length)) > _MOST:
        length /= 2
    end = start + length
    return _Stretch(start, end) if end <= before else None


def _count(cursor: duckdb.DuckDBPyConnection, names: _Sorted, stretch: _Stretch) -> int:
    [(rows,)] = _ask(cursor, _COUNT, names, stretch._asdict())
    return int(rows)


def _portions(agents: Sequence[_Agent], stretch: _Stretch) -> Iterator[_Portion]:
    """All rows of these agents in order, so many at a time as one statement may sort."""
    first, *others = agents
    few = _Few(first.agent_id, first.agent_id, first.rows, first.size)
    for agent in others:
        more = _Few(few.first, agent.agent_id, few.rows + agent.rows, few.size + agent.size)
        if more.parts > 1:
            yield from few.divided(stretch)
            more = _Few(agent.agent_id, agent.agent_id, agent.rows, agent.size)
        few = more
    yield from few.divided(stretch)


def forget_stretches(cursor: duckdb.DuckDBPyConnection, table: str, before: datetime) -> datetime:
    """From when on the rows of a table stay, if those before may be deleted; in the open transaction.

    Sorted stretches stay or go whole: the rows of an hour lie all over them, and what only some rows were
    deleted of DuckDB writes again.
    """
    within = cursor.execute(_WITHIN, {"name": table, "moment": before}).fetchall()
    moment: datetime = within[0][0] if within else before
    cursor.execute(_FORGET, {"name": table, "moment": moment})
    return moment
