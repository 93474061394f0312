"""Histories of one agent, by the page.

A page takes one statement where it can, and where it takes several they run in one transaction, so that they
see the same state: rows may be moved meanwhile, and then go by other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

from pingup.model import Host, Order, Sample, Scan, Span
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.tables import Row, aware, naive, read_ports

# What is in braces is fixed text that depends on the order alone; values are always parameters.
#
# Records of one moment come in the order in which they were stored, whatever the order of the page, so that
# a late one never moves those already shown.
#
# Sorting rows with long texts takes more memory than DuckDB is given. So long texts are left out, marked by
# an empty one (no further metrics are NULL), and are fetched for the rows of the page alone.
#
# The filter on time comes first: it rules out most row groups, and is the cheaper one to ask.
_SAMPLES = """
    SELECT
        rowid, timestamp, cpu, ram, disk, latency, status,
        CASE WHEN strlen(extra) > 256 THEN '' ELSE extra END
    FROM metrics
    WHERE timestamp >= $start::TIMESTAMP
        AND timestamp < $end::TIMESTAMP
        AND timestamp {onward} $after::TIMESTAMP
        AND agent_id = $agent_id
    ORDER BY timestamp {direction}, rowid
    LIMIT $limit OFFSET $shown
"""
_SAMPLES_SINCE = """
    SELECT rowid, timestamp, cpu, ram, disk, latency, status, extra
    FROM metrics
    WHERE timestamp >= $since AND agent_id = $agent_id
    LIMIT $bound
"""
_EXTRAS = """
    SELECT rowid, extra
    FROM metrics
    WHERE rowid IN (SELECT unnest($rows::BIGINT[]))
        AND rowid BETWEEN list_min($rows::BIGINT[]) AND list_max($rows::BIGINT[])
"""
_SAMPLES_AT_ONCE = """
    SELECT count(*)
    FROM metrics
    WHERE timestamp >= $start::TIMESTAMP
        AND timestamp < $end::TIMESTAMP
        AND timestamp = $after::TIMESTAMP
        AND agent_id = $agent_id
"""
# Whole scans are counted off by their rows with index 0, of which each has one.
_SCANS = """
    SELECT scan_timestamp, scan_digest, scan_duration
    FROM discovery
    WHERE scan_timestamp >= $start::TIMESTAMP
        AND scan_timestamp < $end::TIMESTAMP
        AND scan_timestamp {onward} $after::TIMESTAMP
        AND agent_id = $agent_id
        AND host_index = 0
    ORDER BY scan_timestamp {direction}, rowid
    LIMIT $limit OFFSET $shown
"""
_SCAN_ROWS = """
    SELECT page.position, host_index, host_ip, latency, ports, mac, hostname, vendor
    FROM discovery
    JOIN (
        SELECT
            unnest(range(len($moments::TIMESTAMP[]))) AS position,
            unnest($moments::TIMESTAMP[]) AS scan_timestamp,
            unnest($digests::TEXT[]) AS scan_digest
    ) AS page USING (scan_timestamp, scan_digest)
    WHERE agent_id = $agent_id
        AND scan_timestamp BETWEEN list_min($moments::TIMESTAMP[]) AND list_max($moments::TIMESTAMP[])
        AND host_ip IS NOT NULL
"""
_SCANS_AT_ONCE = """
    SELECT count(*)
    FROM discovery
    WHERE scan_timestamp >= $start::TIMESTAMP
        AND scan_timestamp < $end::TIMESTAMP
        AND scan_timestamp = $after::TIMESTAMP
        AND agent_id = $agent_id
        AND host_index = 0
"""
_WAYS: Mapping[Order, Mapping[str, str]] = {
    Order.ASC: {"direction": "ASC", "onward": ">="},
    Order.DESC: {"direction": "DESC", "onward": "<="},
}
_BEGINNING, _END = "-infinity", "infinity"
_AT_A_TIME = 1000

_ROW, _TIMESTAMP, _EXTRA = 0, 1, -1  # of samples
_ELSEWHERE = ""  # in place of further metrics that are too long to be sorted

# Newest pages, so short that what has come since the last one may be fetched with it, however wide.
_SHORT = 150
_GROWTH = 4
_MAX_REMEMBERED = 10_000


class _History(NamedTuple):
    """How a history is read in pages: the page in both orders, and how many records one moment has."""

    pages: Mapping[Order, str]
    at_once: str


_SAMPLE_HISTORY = _History({order: _SAMPLES.format(**way) for order, way in _WAYS.items()}, _SAMPLES_AT_ONCE)
_SCAN_HISTORY = _History({order: _SCANS.format(**way) for order, way in _WAYS.items()}, _SCANS_AT_ONCE)


class SampleHistory:
    """Reads pages of samples, and remembers where the newest pages ended. May be used by several threads.

    Who asks for an agent's newest page mostly asks again. Unless some were deleted, the newest are not older
    then than the last of the page before, and looking through so little takes half the time of sorting.
    """

    def __init__(self) -> None:
        self._ends: dict[tuple[str, int], datetime] = {}

    def page(self, cursor: duckdb.DuckDBPyConnection, agent_id: str, span: Span) -> list[Sample]:
        """A page of an agent's samples; those of one moment in the order in which they were stored."""
        rows = self._newest(cursor, agent_id, span.limit) if _is_newest(span) else None
        if rows is None:
            rows = _page(cursor, _SAMPLE_HISTORY, agent_id, span)
        if any(row[_EXTRA] == _ELSEWHERE for row in rows):
            with one_state(cursor):
                rows = _page(cursor, _SAMPLE_HISTORY, agent_id, span)
                rows = _with_extras(cursor, rows)
        if _is_newest(span) and len(rows) == span.limit:
            self._remember(agent_id, span.limit, rows[-1][_TIMESTAMP])
        return [
            Sample(agent_id, aware(timestamp), cpu, ram, disk, latency, status, extra)
            for _, timestamp, cpu, ram, disk, latency, status, extra in rows
        ]

    def _newest(self, cursor: duckdb.DuckDBPyConnection, agent_id: str, limit: int) -> list[Row] | None:
        """The newest page, if what is remembered suffices to find it."""
        since = self._ends.get((agent_id, limit))
        if since is None:
            return None
        bound = _GROWTH * limit
        asked = {"agent_id": agent_id, "since": since, "bound": bound}
        rows = cursor.execute(_SAMPLES_SINCE, asked).fetchall()
        if not limit <= len(rows) < bound:
            return None
        rows.sort(key=itemgetter(_ROW))
        rows.sort(key=itemgetter(_TIMESTAMP), reverse=True)
        return rows[:limit]

    def _remember(self, agent_id: str, limit: int, end: datetime) -> None:
        if len(self._ends) >= _MAX_REMEMBERED:
            self._ends.clear()
        self._ends[agent_id, limit] = end


def scans(cursor: duckdb.DuckDBPyConnection, agent_id: str, span: Span) -> list[Scan]:
    """A page of an agent's scans; those of one moment in the order in which they were stored."""
    with one_state(cursor):
        page = _page(cursor, _SCAN_HISTORY, agent_id, span)
        if not page:
            return []
        moments, digests, durations = zip(*page, strict=True)
        hosts = _hosts(cursor, agent_id, moments, digests)
    return [
        Scan(agent_id, aware(moment), duration, tuple(host for _, host in sorted(some, key=itemgetter(0))))
        for moment, duration, some in zip(moments, durations, hosts, strict=True)
    ]


def _hosts(
    cursor: duckdb.DuckDBPyConnection, agent_id: str, moments: Sequence[datetime], digests: Sequence[str]
) -> list[list[tuple[int, Host]]]:
    """The hosts of each of these scans, with their places."""
    asked = {"agent_id": agent_id, "moments": moments, "digests": digests}
    found = cursor.execute(_SCAN_ROWS, asked)
    hosts: list[list[tuple[int, Host]]] = [[] for _ in moments]
    ports_by_text: dict[str, tuple[int, ...]] = {}  # mostly the same few, again and again
    while rows := found.fetchmany(_AT_A_TIME):
        for position, index, ip, latency, text, mac, hostname, vendor in rows:
            ports = ports_by_text.get(text)
            if ports is None:
                ports = ports_by_text[text] = read_ports(text)
            hosts[position].append((index, Host(ip, latency, ports, mac, hostname, vendor)))
    return hosts


@contextmanager
def one_state(cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All statements within see the same state."""
    cursor.begin()
    yield
    cursor.rollback()


def _is_newest(span: Span) -> bool:
    is_whole = span.start is None and span.end is None and span.after is None
    return is_whole and span.order is Order.DESC and span.limit <= _SHORT


def _with_extras(cursor: duckdb.DuckDBPyConnection, page: Sequence[Row]) -> list[Row]:
    """The page with the further metrics that were too long to be sorted."""
    wide = [row[_ROW] for row in page if row[_EXTRA] == _ELSEWHERE]
    extras: dict[int, Any] = {}
    for start in range(0, len(wide), _AT_A_TIME):
        rows = {"rows": wide[start : start + _AT_A_TIME]}
        extras.update(cursor.execute(_EXTRAS, rows).fetchall())
    return [(*row[:_EXTRA], extras.get(row[_ROW], row[_EXTRA])) for row in page]


def _page(cursor: duckdb.DuckDBPyConnection, history: _History, agent_id: str, span: Span) -> list[Row]:
    outset = _BEGINNING if span.order is Order.ASC else _END
    stretch = {
        "agent_id": agent_id,
        "start": naive(span.start) if span.start else _BEGINNING,
        "end": naive(span.end) if span.end else _END,
        "after": naive(span.after.timestamp) if span.after else outset,
    }
    shown = 0
    if span.after and span.after.shown:
        # Retention may have taken what was shown. The number must stand in the next statement as a constant,
        # or DuckDB sorts the whole history.
        [(left,)] = cursor.execute(history.at_once, stretch).fetchall()
        shown = min(span.after.shown, left)
    page = history.pages[span.order]
    return cursor.execute(page, {**stretch, "limit": span.limit, "shown": shown}).fetchall()
