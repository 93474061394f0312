"""Commands and each step of their lives: the tables `commands` and `command_changes`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiosqlite import Connection

from pingup.clock import rfc3339
from pingup.errors import Conflict, NotFound
from pingup.model import Command, CommandStatus, StatusChange
from pingup.storage.sqlite.columns import json_text, read_moment, read_object
from pingup.storage.sqlite.database import Database

_INSERT = """
INSERT INTO commands (id, agent_id, action, params, signature, status, result, created_at,
                      expires_at, signed, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_CHANGE = "INSERT INTO command_changes (command_id, status, at) VALUES (?, ?, ?)"
# One row for each step; `add` writes the first, so there is at least one.
_GET = """
SELECT commands.*, command_changes.status AS change_status, command_changes.at AS change_at
FROM commands JOIN command_changes ON command_changes.command_id = commands.id
WHERE commands.id = ? ORDER BY command_changes.id
"""
_PAGE = """
SELECT * FROM commands
WHERE (agent_id = :agent_id OR :agent_id IS NULL)
  AND (status = :status OR :status IS NULL)
  AND (created_at, id) < (:created_at, :id)
ORDER BY created_at DESC, id DESC LIMIT :limit
"""
# A condition that can be NULL uses no index, so one agent's page has a statement of its own.
_PAGE_OF_AGENT = """
SELECT * FROM commands
WHERE agent_id = :agent_id
  AND (status = :status OR :status IS NULL)
  AND (created_at, id) < (:created_at, :id)
ORDER BY created_at DESC, id DESC LIMIT :limit
"""
_UNDELIVERED = """
SELECT * FROM commands
WHERE status IN ('pending', 'sent') AND expires_at > :now AND (agent_id = :agent_id OR :agent_id IS NULL)
ORDER BY created_at, rowid
"""
_OVERDUE = """
SELECT id FROM commands WHERE status IN ('pending', 'sent') AND expires_at <= ? ORDER BY created_at, rowid
"""
_MOVE = """
UPDATE commands SET status = ?, result = coalesce(?, result), updated_at = ?
WHERE id = ? AND status IN (SELECT value FROM json_each(?))
RETURNING id
"""
# Sorts after every moment's text, so that the first page needs no query of its own.
_END_OF_TIME = "~"


class SQLiteCommands:
    """Implements `pingup.ports.CommandStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, command: Command) -> None:
        """Store a command and the first step of its history: its status at its creation.

        Raises:
            NotFound: there is no such agent.
            Conflict: there is a command with this id.
        """
        created_at = rfc3339(command.created_at)

        async def insert(connection: Connection) -> None:
            await connection.execute(_INSERT, _row(command))
            await connection.execute(_INSERT_CHANGE, (command.command_id, command.status.value, created_at))

        try:
            await self._database.write(insert)
        except sqlite3.IntegrityError as problem:
            if problem.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                raise NotFound(f"there is no agent {command.agent_id}") from problem
            raise Conflict(f"command {command.command_id} exists already") from problem

    async def get(self, command_id: str) -> Command | None:
        rows = await self._database.read(_GET, (command_id,))
        history = tuple(
            StatusChange(CommandStatus(row["change_status"]), read_moment(row["change_at"])) for row in rows
        )
        return _command(rows[0], history) if rows else None

    async def page(
        self,
        *,
        agent_id: str | None,
        status: CommandStatus | None,
        limit: int,
        after: tuple[datetime, str] | None,
    ) -> list[Command]:
        wanted = {
            "agent_id": agent_id,
            "status": None if status is None else status.value,
            "created_at": _END_OF_TIME if after is None else rfc3339(after[0]),
            "id": "" if after is None else after[1],
            "limit": limit,
        }
        statement = _PAGE if agent_id is None else _PAGE_OF_AGENT
        return [_command(row) for row in await self._database.read(statement, wanted)]

    async def undelivered(self, agent_id: str | None, now: datetime) -> list[Command]:
        wanted = {"now": rfc3339(now), "agent_id": agent_id}
        return [_command(row) for row in await self._database.read(_UNDELIVERED, wanted)]

    async def overdue(self, now: datetime) -> list[str]:
        return [row["id"] for row in await self._database.read(_OVERDUE, (rfc3339(now),))]

    async def move(
        self,
        command_id: str,
        sources: Sequence[CommandStatus],
        target: CommandStatus,
        at: datetime,
        result: str | None = None,
    ) -> bool:
        moment = rfc3339(at)
        values = (target.value, result, moment, command_id, json_text(sources))

        async def update(connection: Connection) -> bool:
            if not await connection.execute_fetchall(_MOVE, values):
                return False
            await connection.execute(_INSERT_CHANGE, (command_id, target.value, moment))
            return True

        return await self._database.write(update)


def _row(command: Command) -> tuple[Any, ...]:
    created_at = rfc3339(command.created_at)
    result = bytes(command.result).decode()
    return (
        command.command_id,
        command.agent_id,
        command.action,
        json_text(command.params),
        command.signature,
        command.status.value,
        None if result == "null" else result,
        created_at,
        rfc3339(command.expires_at),
        command.signed,
        created_at,
    )


def _command(row: sqlite3.Row, history: tuple[StatusChange, ...] = ()) -> Command:
    result = row["result"]
    return Command(
        command_id=row["id"],
        agent_id=row["agent_id"],
        action=row["action"],
        params=read_object(row["params"]),
        status=CommandStatus(row["status"]),
        result=msgspec.Raw(b"null" if result is None else result),
        created_at=read_moment(row["created_at"]),
        expires_at=read_moment(row["expires_at"]),
        signed=row["signed"],
        signature=row["signature"],
        history=history,
    )
