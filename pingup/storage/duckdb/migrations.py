"""The numbered migrations of `analytics.duckdb`.

There are no secondary indexes on purpose (docs/decisions/0001-duckdb-inserts.md). The specification's
columns come first, in its order.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from pingup.errors import Unusable
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.opening import Opened, open_file, unusable


class Migration(NamedTuple):
    """One step of the schema. Its number and name never change once it was released."""

    version: int
    name: str
    statements: tuple[str, ...]


MIGRATIONS = (
    Migration(
        1,
        "telemetry",
        (
            """
            CREATE TABLE metrics (
                agent_id TEXT,
                timestamp TIMESTAMP,
                cpu DOUBLE,
                ram DOUBLE,
                disk DOUBLE,
                latency INTEGER,
                status TEXT,
                extra TEXT
            )
            """,
            """
            CREATE TABLE discovery (
                agent_id TEXT,
                scan_timestamp TIMESTAMP,
                host_ip TEXT,
                latency INTEGER,
                ports TEXT,
                scan_duration INTEGER,
                mac TEXT,
                hostname TEXT,
                vendor TEXT,
                scan_digest TEXT,
                host_index INTEGER
            )
            """,
        ),
    ),
    Migration(
        2,
        "sequences",
        (
            """
            CREATE TABLE sequences (
                agent_id TEXT,
                stream TEXT,
                fate TEXT,
                low BIGINT,
                high BIGINT,
                first BIGINT,
                low_at TIMESTAMP,
                high_at TIMESTAMP,
                received_at TIMESTAMP
            )
            """,
        ),
    ),
    Migration(
        3,
        "sorted",
        ("CREATE TABLE sorted (name TEXT, start TIMESTAMP, until TIMESTAMP)",),
    ),
)


class Migrated(NamedTuple):
    """An open and up to date file, and the names of the migrations that were applied to it just now."""

    opened: Opened
    applied: list[str]


def migrate(path: Path) -> list[str]:
    """Bring the file at `path` up to date, making it if there is none, and close it again.

    Returns:
        The names of the migrations that were applied, in order.

    Raises:
        Unusable: the file can't be opened or written, or is newer than this program.
    """
    migrated = open_migrated(path)
    migrated.opened.connection.close()
    return migrated.applied


def open_migrated(path: Path) -> Migrated:
    """Open the file at `path`, making it or bringing it up to date where needed. Raises as `migrate`."""
    opened = open_file(path)
    with ExitStack() as undo:
        undo.callback(opened.connection.close)
        try:
            migrated = Migrated(opened, _apply_missing(opened.connection))
        except duckdb.Error as fault:
            raise unusable(path, fault) from fault
        undo.pop_all()
    return migrated


def _apply_missing(connection: duckdb.DuckDBPyConnection) -> list[str]:
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER, name TEXT)")
    newest = _newest_version(connection)
    if newest > MIGRATIONS[-1].version:
        raise Unusable(
            f"analytics.duckdb has schema version {newest}, made by a newer pingup; update this one"
        )
    missing = [migration for migration in MIGRATIONS if migration.version > newest]
    for migration in missing:
        _apply(connection, migration)
    return [f"{migration.version:04}_{migration.name}" for migration in missing]


def _newest_version(connection: duckdb.DuckDBPyConnection) -> int:
    # A row that is not fetched would keep the statement's transaction open for as long as the file is, and
    # DuckDB uses no space again that was freed meanwhile.
    [(version,)] = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchall()
    return int(version)


def _apply(connection: duckdb.DuckDBPyConnection, migration: Migration) -> None:
    # A failure ends the program, and closing the connection rolls back.
    connection.begin()
    for statement in migration.statements:
        connection.execute(statement)
    connection.execute("INSERT INTO migrations VALUES (?, ?)", [migration.version, migration.name])
    connection.commit()
    # The schema never hangs on the write-ahead log, which may have to be set aside.
    connection.execute("CHECKPOINT")
