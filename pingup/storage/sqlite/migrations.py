"""The numbered steps from an empty file to today's tables; `PRAGMA user_version` is the newest one applied.

A step that was released never changes; a later one corrects it. The specification's tables and columns
come first and in its order, what the server adds comes after them.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from pingup.errors import Unusable
from pingup.storage.sqlite.failures import unusable

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process that holds the file."""


class Migration(msgspec.Struct, frozen=True):
    """One step: a name for people, and its statements."""

    name: str
    statements: tuple[str, ...]


_REGISTRY = Migration(
    "registry",
    (
        """
        CREATE TABLE agents (
          id TEXT PRIMARY KEY,
          name TEXT,
          status TEXT DEFAULT 'offline',
          last_seen TEXT,
          metadata TEXT,
          created_at TEXT DEFAULT CURRENT_TIMESTAMP,
          tags TEXT NOT NULL DEFAULT '[]',
          algorithm TEXT NOT NULL,
          sealed_secret BLOB,
          public_key BLOB,
          token_hash BLOB NOT NULL UNIQUE
        )
        """,
        """
        CREATE TABLE commands (
          id TEXT PRIMARY KEY,
          agent_id TEXT,
          action TEXT,
          params TEXT,
          signature TEXT,
          status TEXT DEFAULT 'pending',
          result TEXT,
          created_at TEXT DEFAULT CURRENT_TIMESTAMP,
          expires_at TEXT NOT NULL,
          signed TEXT NOT NULL,
          updated_at TEXT NOT NULL,
          FOREIGN KEY (agent_id) REFERENCES agents(id) ON DELETE CASCADE
        )
        """,
        """
        CREATE TABLE configs (
          agent_id TEXT PRIMARY KEY,
          config TEXT,
          version INTEGER DEFAULT 1,
          updated_at TEXT DEFAULT CURRENT_TIMESTAMP,
          FOREIGN KEY (agent_id) REFERENCES agents(id) ON DELETE CASCADE
        )
        """,
        "CREATE INDEX idx_commands_agent ON commands(agent_id)",
        "CREATE INDEX idx_commands_status ON commands(status)",
        "CREATE INDEX idx_commands_created ON commands(created_at, id)",
        """
        CREATE TABLE command_changes (
          id INTEGER PRIMARY KEY,
          command_id TEXT NOT NULL REFERENCES commands(id) ON DELETE CASCADE,
          status TEXT NOT NULL,
          at TEXT NOT NULL
        )
        """,
        "CREATE INDEX idx_command_changes_command ON command_changes(command_id)",
        """
        CREATE TABLE config_versions (
          agent_id TEXT NOT NULL REFERENCES agents(id) ON DELETE CASCADE,
          version INTEGER NOT NULL,
          config TEXT NOT NULL,
          updated_at TEXT NOT NULL,
          PRIMARY KEY (agent_id, version)
        )
        """,
        """
        CREATE TABLE config_reports (
          agent_id TEXT PRIMARY KEY REFERENCES agents(id) ON DELETE CASCADE,
          version INTEGER NOT NULL,
          applied INTEGER NOT NULL,
          error TEXT,
          sent_at TEXT NOT NULL,
          received_at TEXT NOT NULL
        )
        """,
        """
        CREATE TABLE api_tokens (
          id TEXT PRIMARY KEY,
          name TEXT NOT NULL,
          scope INTEGER NOT NULL,
          token_hash BLOB NOT NULL UNIQUE,
          created_at TEXT NOT NULL,
          expires_at TEXT,
          last_used_at TEXT
        )
        """,
        "CREATE TABLE settings (name TEXT PRIMARY KEY, sealed BLOB NOT NULL)",
    ),
)

# For brokers elsewhere, which have to be told the token of an agent that has no secret to make it from.
_SEALED_TOKENS = Migration("sealed_tokens", ("ALTER TABLE agents ADD COLUMN sealed_token BLOB",))

_SECURITY = Migration(
    "security",
    (
        "ALTER TABLE api_tokens ADD COLUMN tags TEXT NOT NULL DEFAULT '[]'",
        """
        CREATE TABLE enrolment_tokens (
          id TEXT PRIMARY KEY,
          name TEXT NOT NULL,
          token_hash BLOB NOT NULL UNIQUE,
          tags TEXT NOT NULL,
          uses INTEGER NOT NULL,
          used INTEGER NOT NULL DEFAULT 0,
          created_at TEXT NOT NULL,
          expires_at TEXT NOT NULL,
          last_used_at TEXT
        )
        """,
        """
        CREATE TABLE enrolments (
          claim_hash BLOB PRIMARY KEY,
          agent_id TEXT NOT NULL,
          token_id TEXT NOT NULL,
          public_key BLOB,
          state TEXT NOT NULL,
          address TEXT,
          requested_at TEXT NOT NULL
        )
        """,
        "CREATE INDEX idx_enrolments_agent ON enrolments(agent_id)",
        """
        CREATE TABLE other_keys (
          agent_id TEXT PRIMARY KEY REFERENCES agents(id) ON DELETE CASCADE,
          standing TEXT NOT NULL,
          algorithm TEXT NOT NULL,
          sealed_secret BLOB,
          public_key BLOB,
          token_hash BLOB NOT NULL,
          sealed_token BLOB,
          until TEXT NOT NULL,
          command_id TEXT,
          uses INTEGER NOT NULL DEFAULT 0,
          last_used_at TEXT
        )
        """,
        """
        CREATE TABLE audit (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          at TEXT NOT NULL,
          actor_kind TEXT NOT NULL,
          actor_id TEXT NOT NULL,
          address TEXT,
          action TEXT NOT NULL,
          target TEXT NOT NULL,
          detail TEXT NOT NULL
        )
        """,
        "CREATE INDEX idx_audit_target ON audit(target, id)",
        """
        CREATE TABLE refusals (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          at TEXT NOT NULL,
          agent_id TEXT,
          source TEXT NOT NULL,
          reason TEXT NOT NULL,
          detail TEXT NOT NULL,
          size INTEGER NOT NULL,
          head BLOB NOT NULL
        )
        """,
        "CREATE INDEX idx_refusals_agent ON refusals(agent_id, id)",
    ),
)

MIGRATIONS = (_REGISTRY, _SEALED_TOKENS, _SECURITY)


def migrate(path: Path) -> list[str]:
    """Bring the file up to date, making it (0600) if there is none; the names of what was applied now.

    Each step is a transaction of its own, so what was applied before a failure stays.

    Raises:
        Unusable: it cannot be opened or written, is not a SQLite database, is somebody else's, or was made
            by a newer version of the program.
    """
    try:
        # SQLite gives its own files beside this one the same permissions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)) as connection:
            _check_origin(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            return _apply_missing(connection)
    except (sqlite3.Error, OSError) as problem:
        raise unusable(path, problem) from problem


def check_version(path: Path) -> None:
    """Return if the file is there and up to date.

    Raises:
        Unusable: it cannot be opened, is not ours, or has to be migrated first.
    """
    try:
        # Not `ro`, which would leave files of its own beside this one.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            _check_origin(connection, path)
            is_old = _version(connection) < len(MIGRATIONS)
    except sqlite3.Error as problem:
        raise unusable(path, problem) from problem
    if is_old:
        raise Unusable(
            f"{path} was made by an older version of Pingup: `pingup migrate` brings it up to date"
        )


def _check_origin(connection: sqlite3.Connection, path: Path) -> None:
    # One statement, so that both are of the same moment when another process migrates just now.
    version, tables = connection.execute(
        "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
    ).fetchone()
    if version > len(MIGRATIONS):
        raise Unusable(
            f"{path} was made by a newer version of Pingup (its tables are version {version}, "
            f"this one knows {len(MIGRATIONS)})"
        )
    if version == 0 and tables:
        raise Unusable(f"{path} holds tables that are not Pingup's: choose another data directory")


def _apply_missing(connection: sqlite3.Connection) -> list[str]:
    applied: list[str] = []
    while (name := _apply_next(connection)) is not None:
        applied.append(name)
    return applied


def _apply_next(connection: sqlite3.Connection) -> str | None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read under the lock: another process may have been faster.
        version = _version(connection)
        if version >= len(MIGRATIONS):
            connection.execute("ROLLBACK")
            return None
        for statement in MIGRATIONS[version].statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return f"{version + 1:04d}_{MIGRATIONS[version].name}"


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version
