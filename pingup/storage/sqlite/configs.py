"""Configurations: `configs` holds each agent's newest version, `config_versions` every one of them."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import Any

from aiosqlite import Connection

from pingup.clock import rfc3339
from pingup.errors import NotFound, PreconditionFailed
from pingup.model import ConfigReport, ConfigVersion, ReportedConfig
from pingup.storage.sqlite.columns import json_text, read_moment, read_object
from pingup.storage.sqlite.database import Database

_NEWEST_OF_ALL = "SELECT agent_id, version, config, updated_at FROM configs ORDER BY agent_id"
_NEWEST = "SELECT agent_id, version, config, updated_at FROM configs WHERE agent_id = ?"
_ONE = """
SELECT agent_id, version, config, updated_at FROM config_versions WHERE agent_id = ? AND version = ?
"""
_HISTORY = """
SELECT agent_id, version, config, updated_at FROM config_versions
WHERE agent_id = ? ORDER BY version DESC LIMIT ?
"""
_CURRENT_VERSION = """
SELECT coalesce(configs.version, 0) FROM agents LEFT JOIN configs ON configs.agent_id = agents.id
WHERE agents.id = ?
"""
_APPEND = "INSERT INTO config_versions (agent_id, version, config, updated_at) VALUES (?, ?, ?, ?)"
_REPLACE = """
INSERT INTO configs (agent_id, version, config, updated_at) VALUES (?, ?, ?, ?)
ON CONFLICT (agent_id) DO UPDATE
SET version = excluded.version, config = excluded.config, updated_at = excluded.updated_at
"""
_REPORT = """
INSERT INTO config_reports (agent_id, version, applied, error, sent_at, received_at)
SELECT id, :version, :applied, :error, :sent_at, :received_at FROM agents WHERE id = :agent_id
ON CONFLICT (agent_id) DO UPDATE
SET version = excluded.version, applied = excluded.applied, error = excluded.error,
    sent_at = excluded.sent_at, received_at = excluded.received_at
WHERE excluded.sent_at > config_reports.sent_at
"""
_REPORTED = "SELECT version, applied, error, received_at FROM config_reports WHERE agent_id = ?"


class SQLiteConfigs:
    """Implements `pingup.ports.ConfigStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, agent_id: str, version: int | None = None) -> ConfigVersion | None:
        if version is None:
            rows = await self._database.read(_NEWEST, (agent_id,))
        else:
            rows = await self._database.read(_ONE, (agent_id, version))
        return _config(rows[0]) if rows else None

    async def add(
        self, agent_id: str, config: dict[str, Any], at: datetime, expected: int | None
    ) -> ConfigVersion:
        """Make the next version: 1, 2, 3 and so on.

        Args:
            agent_id: whose configuration it is.
            config: the whole new configuration.
            at: when it was made.
            expected: the version that must be the newest one, 0 for none yet; None to take any.

        Raises:
            NotFound: there is no such agent.
            PreconditionFailed: the newest version is not the expected one.
        """
        text = json_text(config)

        async def append(connection: Connection) -> int:
            current = await _current_version(connection, agent_id)
            if expected is not None and expected != current:
                raise PreconditionFailed(f"the newest version is {current}, not {expected}")
            row = (agent_id, current + 1, text, rfc3339(at))
            await connection.execute(_APPEND, row)
            await connection.execute(_REPLACE, row)
            return current + 1

        version = await self._database.write(append)
        return ConfigVersion(agent_id, version, config, at.astimezone(UTC))

    async def history(self, agent_id: str, limit: int) -> list[ConfigVersion]:
        return [_config(row) for row in await self._database.read(_HISTORY, (agent_id, limit))]

    async def newest(self) -> list[ConfigVersion]:
        return [_config(row) for row in await self._database.read(_NEWEST_OF_ALL)]

    async def report(self, report: ConfigReport, at: datetime) -> None:
        values = {
            "agent_id": report.agent_id,
            "version": report.version,
            "applied": report.applied,
            "error": report.error,
            "sent_at": rfc3339(report.sent_at),
            "received_at": rfc3339(at),
        }

        async def keep(connection: Connection) -> None:
            # aiosqlite's annotation says less than sqlite3 takes: a mapping binds `:names`.
            bound: Any = values
            await connection.execute(_REPORT, bound)

        await self._database.write(keep)

    async def reported(self, agent_id: str) -> ReportedConfig | None:
        """The newest report, with the moment at which the server got it."""
        rows = await self._database.read(_REPORTED, (agent_id,))
        if not rows:
            return None
        version, applied, error, received_at = rows[0]
        return ReportedConfig(version, bool(applied), error, read_moment(received_at))


async def _current_version(connection: Connection, agent_id: str) -> int:
    """The newest version inside of the transaction, 0 if there is none yet."""
    rows = list(await connection.execute_fetchall(_CURRENT_VERSION, (agent_id,)))
    if not rows:
        raise NotFound(f"there is no agent {agent_id}")
    version: int = rows[0][0]
    return version


def _config(row: sqlite3.Row) -> ConfigVersion:
    agent_id, version, config, updated_at = row
    return ConfigVersion(agent_id, version, read_object(config), read_moment(updated_at))
