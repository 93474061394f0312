"""The questions that are asked of the tables, each on a cursor of its own.

Where a question takes several statements they run in one transaction, so that they see the same state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import NamedTuple

import duckdb

from pingup.model import Host, Order, Sample, Scan, Span
from pingup.storage.duckdb.tables import Row, aware, naive, read_host, read_sample

# What is in braces is fixed text that depends on the order alone; values are always parameters.
#
# A page is found by its narrow columns and then fetched: DuckDB decodes vectors of 2,048 rows, and sorting
# whole rows with long texts takes more memory than it is given. Records of one moment come in the order in
# which they were stored, whatever the order of the page, so that a late one never moves those already shown.
_SAMPLES = """
    SELECT rowid
    FROM metrics
    WHERE agent_id = $agent_id
        AND timestamp >= coalesce($start, '-infinity'::TIMESTAMP)
        AND timestamp < coalesce($end, 'infinity'::TIMESTAMP)
        AND timestamp {onward} coalesce($after, '{outset}'::TIMESTAMP)
    ORDER BY timestamp {direction}, rowid
    LIMIT $limit OFFSET $shown
"""
_SAMPLE_ROWS = """
    SELECT rowid, agent_id, timestamp, cpu, ram, disk, latency, status, extra
    FROM metrics
    WHERE rowid IN (SELECT unnest($rows::BIGINT[]))
        AND rowid BETWEEN list_min($rows::BIGINT[]) AND list_max($rows::BIGINT[])
"""
_SAMPLES_AT_ONCE = """
    SELECT count(*)
    FROM metrics
    WHERE agent_id = $agent_id
        AND timestamp = $after
        AND timestamp >= coalesce($start, '-infinity'::TIMESTAMP)
        AND timestamp < coalesce($end, 'infinity'::TIMESTAMP)
"""
_NEWEST_SAMPLES = """
    SELECT agent_id, timestamp, cpu, ram, disk, latency, status, extra
    FROM metrics
    SEMI JOIN (
        SELECT agent_id, max(timestamp) AS timestamp
        FROM metrics
        {chosen}
        GROUP BY agent_id
    ) AS newest USING (agent_id, timestamp)
    QUALIFY row_number() OVER (PARTITION BY agent_id ORDER BY rowid) = 1
    ORDER BY agent_id
"""
# Whole scans are counted off by their rows with index 0, of which each has one.
_SCANS = """
    SELECT scan_timestamp, scan_digest
    FROM discovery
    WHERE agent_id = $agent_id
        AND host_index = 0
        AND scan_timestamp >= coalesce($start, '-infinity'::TIMESTAMP)
        AND scan_timestamp < coalesce($end, 'infinity'::TIMESTAMP)
        AND scan_timestamp {onward} coalesce($after, '{outset}'::TIMESTAMP)
    ORDER BY scan_timestamp {direction}, rowid
    LIMIT $limit OFFSET $shown
"""
_SCAN_ROWS = """
    SELECT page.position, host_index, scan_duration, host_ip, latency, ports, mac, hostname, vendor
    FROM discovery
    JOIN (
        SELECT
            unnest(range(len($moments::TIMESTAMP[]))) AS position,
            unnest($moments::TIMESTAMP[]) AS scan_timestamp,
            unnest($digests::TEXT[]) AS scan_digest
    ) AS page USING (scan_timestamp, scan_digest)
    WHERE agent_id = $agent_id
        AND scan_timestamp BETWEEN list_min($moments::TIMESTAMP[]) AND list_max($moments::TIMESTAMP[])
"""
_SCANS_AT_ONCE = """
    SELECT count(*)
    FROM discovery
    WHERE agent_id = $agent_id
        AND host_index = 0
        AND scan_timestamp = $after
        AND scan_timestamp >= coalesce($start, '-infinity'::TIMESTAMP)
        AND scan_timestamp < coalesce($end, 'infinity'::TIMESTAMP)
"""
_AT_A_TIME = 1000
_WAYS: Mapping[Order, Mapping[str, str]] = {
    Order.ASC: {"direction": "ASC", "onward": ">=", "outset": "-infinity"},
    Order.DESC: {"direction": "DESC", "onward": "<=", "outset": "infinity"},
}


_NEWEST = """
    SELECT greatest((SELECT max(timestamp) FROM metrics), (SELECT max(scan_timestamp) FROM discovery))
"""


class _History(NamedTuple):
    """How a history is read in pages: the page in both orders, and how many records one moment has."""

    pages: Mapping[Order, str]
    at_once: str


_SAMPLE_HISTORY = _History({order: _SAMPLES.format(**way) for order, way in _WAYS.items()}, _SAMPLES_AT_ONCE)
_SCAN_HISTORY = _History({order: _SCANS.format(**way) for order, way in _WAYS.items()}, _SCANS_AT_ONCE)


def samples(cursor: duckdb.DuckDBPyConnection, agent_id: str, span: Span) -> list[Sample]:
    """A page of an agent's samples; those of one moment in the order in which they were stored."""
    cursor.begin()
    page = [row for (row,) in _page(cursor, _SAMPLE_HISTORY, agent_id, span)]
    if not page:
        return []
    samples_by_row: dict[int, Sample] = {}
    for start in range(0, len(page), _AT_A_TIME):
        rows = {"rows": page[start : start + _AT_A_TIME]}
        found = cursor.execute(_SAMPLE_ROWS, rows).fetchall()
        samples_by_row.update((row, read_sample(values)) for row, *values in found)
    return [samples_by_row[row] for row in page]


def scans(cursor: duckdb.DuckDBPyConnection, agent_id: str, span: Span) -> list[Scan]:
    """A page of an agent's scans; those of one moment in the order in which they were stored."""
    cursor.begin()
    page = _page(cursor, _SCAN_HISTORY, agent_id, span)
    if not page:
        return []
    moments, digests = ([row[column] for row in page] for column in range(2))
    found = cursor.execute(_SCAN_ROWS, {"agent_id": agent_id, "moments": moments, "digests": digests})
    durations = [0] * len(page)
    hosts: list[list[tuple[int, Host]]] = [[] for _ in page]
    while rows := found.fetchmany(_AT_A_TIME):
        for position, index, duration, *host in rows:
            durations[position] = duration
            if host[0] is not None:
                hosts[position].append((index, read_host(host)))
    return [
        Scan(agent_id, aware(moment), duration, tuple(host for _, host in sorted(some, key=itemgetter(0))))
        for moment, duration, some in zip(moments, durations, hosts, strict=True)
    ]


def newest_samples(cursor: duckdb.DuckDBPyConnection, agent_ids: Sequence[str] | None) -> list[Sample]:
    """The newest sample of these agents or of all; of several at one moment the one stored first."""
    if agent_ids is None:
        found = cursor.execute(_NEWEST_SAMPLES.format(chosen=""))
    else:
        chosen = "WHERE agent_id IN (SELECT unnest($agent_ids::TEXT[]))"
        found = cursor.execute(_NEWEST_SAMPLES.format(chosen=chosen), {"agent_ids": list(agent_ids)})
    return [read_sample(row) for row in found.fetchall()]


def has(cursor: duckdb.DuckDBPyConnection, agent_id: str) -> bool:
    """Whether any row is this agent's."""
    in_metrics = cursor.execute("SELECT 1 FROM metrics WHERE agent_id = ? LIMIT 1", [agent_id]).fetchone()
    if in_metrics is not None:
        return True
    in_discovery = cursor.execute("SELECT 1 FROM discovery WHERE agent_id = ? LIMIT 1", [agent_id]).fetchone()
    return in_discovery is not None


def newest(cursor: duckdb.DuckDBPyConnection) -> datetime | None:
    """The newest moment in the tables; answered from statistics."""
    row = cursor.execute(_NEWEST).fetchone()
    return aware(row[0]) if row and row[0] else None


def check(cursor: duckdb.DuckDBPyConnection) -> None:
    """Ask the file for something."""
    cursor.execute("SELECT max(version) FROM migrations").fetchall()


def _page(cursor: duckdb.DuckDBPyConnection, history: _History, agent_id: str, span: Span) -> list[Row]:
    stretch = {
        "agent_id": agent_id,
        "start": naive(span.start) if span.start else None,
        "end": naive(span.end) if span.end else None,
        "after": naive(span.after.timestamp) if span.after else None,
    }
    shown = 0
    if span.after and span.after.shown:
        # Retention may have taken what was shown. The number must stand in the next statement as a constant,
        # or DuckDB sorts the whole history.
        left = cursor.execute(history.at_once, stretch).fetchone()
        shown = min(span.after.shown, left[0] if left else 0)
    page = history.pages[span.order]
    return cursor.execute(page, {**stretch, "limit": span.limit, "shown": shown}).fetchall()
