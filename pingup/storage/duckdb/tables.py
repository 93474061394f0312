"""Samples and scans as rows of their tables, and back.

Columns hold naive moments in UTC: the driver needs a time zone package for the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import msgspec

from pingup.model import Sample, Scan
from pingup.storage.duckdb.driver import duckdb

Row = tuple[Any, ...]
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)
_Ports = msgspec.json.Decoder(tuple[int, ...])

# Stored samples that differ from those asked for in their further metrics at most. These can be so wide that
# there is no memory to look for them in the same statement.
_ALIKE = """
    SELECT kept.rowid
    FROM metrics AS kept
    SEMI JOIN (
        SELECT
            unnest($1::TEXT[]) AS agent_id,
            unnest($2::TIMESTAMP[]) AS timestamp,
            unnest($3::DOUBLE[]) AS cpu,
            unnest($4::DOUBLE[]) AS ram,
            unnest($5::DOUBLE[]) AS disk,
            unnest($6::INTEGER[]) AS latency,
            unnest($7::TEXT[]) AS status
    ) AS asked
        ON kept.agent_id = asked.agent_id
        AND kept.timestamp = asked.timestamp
        AND kept.cpu IS NOT DISTINCT FROM asked.cpu
        AND kept.ram IS NOT DISTINCT FROM asked.ram
        AND kept.disk IS NOT DISTINCT FROM asked.disk
        AND kept.latency IS NOT DISTINCT FROM asked.latency
        AND kept.status IS NOT DISTINCT FROM asked.status
    WHERE kept.timestamp BETWEEN list_min($2::TIMESTAMP[]) AND list_max($2::TIMESTAMP[])
"""
_WHOLE = """
    SELECT agent_id, timestamp, cpu, ram, disk, latency, status, extra
    FROM metrics
    WHERE rowid IN (SELECT unnest($1::BIGINT[]))
        AND rowid BETWEEN list_min($1::BIGINT[]) AND list_max($1::BIGINT[])
"""
_SAME_SCANS = """
    SELECT asked.position
    FROM (
        SELECT
            unnest(range(len($1::TEXT[]))) AS position,
            unnest($1::TEXT[]) AS agent_id,
            unnest($2::TIMESTAMP[]) AS scan_timestamp,
            unnest($3::TEXT[]) AS scan_digest
    ) AS asked
    SEMI JOIN discovery AS kept
        ON kept.agent_id = asked.agent_id
        AND kept.scan_timestamp = asked.scan_timestamp
        AND kept.scan_digest = asked.scan_digest
        AND kept.scan_timestamp BETWEEN list_min($2::TIMESTAMP[]) AND list_max($2::TIMESTAMP[])
"""
_AT_A_TIME = 500
_NAIVE_EPOCH = datetime(1970, 1, 1)
_EPOCH = _NAIVE_EPOCH.replace(tzinfo=UTC)


class Key(Protocol):
    """What tells a record from all others of its table; equal keys mean a repeat."""

    @property
    def agent_id(self) -> str: ...
    @property
    def timestamp(self) -> datetime: ...
    def __hash__(self) -> int: ...


K = TypeVar("K", bound=Key)


class Table(Protocol[R_contra, K]):
    """How one kind of record is kept."""

    @property
    def name(self) -> str: ...
    @property
    def newest(self) -> str:
        """The statement that asks for the newest moment in the table.

        Statistics tell where to look for it. They tell max() itself only while no deleted row is left, and
        then it reads everything. Without a condition DuckDB 2.0 takes deleted rows for what to look for, and
        finds an older moment.
        """
        ...

    def keys(self, records: Sequence[R_contra]) -> Sequence[K]:
        """A key for each record."""
        ...

    def stored(self, cursor: duckdb.DuckDBPyConnection, keys: Sequence[K]) -> set[int]:
        """Which of these keys are in the table, by their positions."""
        ...

    def rows(self, records: Sequence[R_contra], keys: Sequence[K]) -> Iterable[Row]:
        """The rows of records with these keys."""
        ...


class SampleTable:
    """A sample is one row, and its own key: all values count."""

    name = "metrics"
    newest = "SELECT timestamp FROM metrics WHERE timestamp IS NOT NULL ORDER BY timestamp DESC LIMIT 1"

    def keys(self, records: Sequence[Sample]) -> Sequence[Sample]:
        return records

    def stored(self, cursor: duckdb.DuckDBPyConnection, keys: Sequence[Sample]) -> set[int]:
        *narrow, _ = zip(*map(_row, keys), strict=True)
        alike = [row for (row,) in cursor.execute(_ALIKE, [list(column) for column in narrow]).fetchall()]
        positions = {key: position for position, key in enumerate(keys)}
        found: set[int] = set()
        for start in range(0, len(alike), _AT_A_TIME):
            kept = cursor.execute(_WHOLE, [alike[start : start + _AT_A_TIME]]).fetchall()
            found.update(positions[sample] for sample in map(read_sample, kept) if sample in positions)
        return found

    def rows(self, records: Sequence[Sample], keys: Sequence[Sample]) -> Iterable[Row]:
        return map(_row, records)


def _row(sample: Sample) -> Row:
    return (
        sample.agent_id,
        naive(sample.timestamp),
        sample.cpu,
        sample.ram,
        sample.disk,
        sample.latency,
        sample.status,
        sample.extra,
    )


class ScanKey(msgspec.Struct, frozen=True):
    """A scan by the digest of its content, so that its rows need not be compared one by one."""

    agent_id: str
    timestamp: datetime
    digest: str


class ScanTable:
    """A scan is one row a host, the rows of one scan held together by its digest.

    An empty scan is one row without an address. `host_index` keeps the order of the hosts; every scan has
    exactly one row with index 0.
    """

    name = "discovery"
    newest = """
        SELECT scan_timestamp FROM discovery
        WHERE scan_timestamp IS NOT NULL ORDER BY scan_timestamp DESC LIMIT 1
    """

    def keys(self, records: Sequence[Scan]) -> Sequence[ScanKey]:
        return [ScanKey(record.agent_id, record.timestamp, digest(record)) for record in records]

    def stored(self, cursor: duckdb.DuckDBPyConnection, keys: Sequence[ScanKey]) -> set[int]:
        agent_ids = [key.agent_id for key in keys]
        moments = [naive(key.timestamp) for key in keys]
        digests = [key.digest for key in keys]
        found = cursor.execute(_SAME_SCANS, [agent_ids, moments, digests]).fetchall()
        return {position for (position,) in found}

    def rows(self, records: Sequence[Scan], keys: Sequence[ScanKey]) -> Iterable[Row]:
        for record, key in zip(records, keys, strict=True):
            yield from self._rows(record, key)

    def _rows(self, record: Scan, key: ScanKey) -> Iterable[Row]:
        agent_id, moment, scan_digest = key.agent_id, naive(key.timestamp), key.digest
        if not record.hosts:
            empty = (None,) * 3
            yield agent_id, moment, *empty, record.duration, *empty, scan_digest, 0
        for index, host in enumerate(record.hosts):
            yield (
                agent_id,
                moment,
                host.ip,
                host.latency,
                msgspec.json.encode(host.ports).decode(),
                record.duration,
                host.mac,
                host.hostname,
                host.vendor,
                scan_digest,
                index,
            )


def digest(scan: Scan) -> str:
    """The content of a scan in 32 hexadecimal digits: equal for equal duration and hosts in equal order.

    It is stored, so it must stay the same from release to release.
    """
    content = msgspec.json.encode((scan.duration, scan.hosts))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def naive(moment: datetime) -> datetime:
    """An aware moment as the columns hold it."""
    # A tenth of the cost of replacing the zone.
    return _NAIVE_EPOCH + (moment - _EPOCH)


def aware(moment: datetime) -> datetime:
    """A moment out of a column as the model holds it."""
    return moment.replace(tzinfo=UTC)


def read_sample(row: Sequence[Any]) -> Sample:
    """A sample out of a row of all columns of `metrics`."""
    agent_id, timestamp, *values = row
    return Sample(agent_id, aware(timestamp), *values)


def read_ports(text: str) -> tuple[int, ...]:
    """Ports out of their column."""
    return _Ports.decode(text)
