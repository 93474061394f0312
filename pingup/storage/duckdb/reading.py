"""The questions that are asked of the tables beside histories, one statement each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pingup.model import Sample
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.tables import SampleTable, ScanTable, aware, read_sample

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
_ANY = (
    "SELECT 1 FROM metrics WHERE agent_id = ? LIMIT 1",
    "SELECT 1 FROM discovery WHERE agent_id = ? LIMIT 1",
)
_NEWEST = f"SELECT greatest(({SampleTable.newest}), ({ScanTable.newest}))"


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
    return any(cursor.execute(statement, [agent_id]).fetchall() for statement in _ANY)


def newest(cursor: duckdb.DuckDBPyConnection) -> datetime | None:
    """The newest moment in the tables."""
    [(moment,)] = cursor.execute(_NEWEST).fetchall()
    return aware(moment) if moment else None


def check(cursor: duckdb.DuckDBPyConnection) -> None:
    """Ask the file for something."""
    cursor.execute("SELECT max(version) FROM migrations").fetchall()
