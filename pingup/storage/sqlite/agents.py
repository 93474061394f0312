"""Agents and their keys: the table `agents`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiosqlite import Connection

from pingup.errors import Conflict
from pingup.model import Agent, AgentKey, Algorithm, Presence
from pingup.storage.sqlite.columns import (
    json_text,
    moment_text,
    read_moment,
    read_object,
    read_optional_moment,
)
from pingup.storage.sqlite.database import Database
from pingup.storage.sqlite.sealing import Sealing

_INSERT = """
INSERT INTO agents (id, name, status, last_seen, metadata, created_at, tags, algorithm,
                    sealed_secret, public_key, token_hash, sealed_token)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_GET = """
SELECT id, name, status, last_seen, metadata, created_at, tags, algorithm FROM agents WHERE id = ?
"""
_PAGE = """
SELECT id, name, status, last_seen, metadata, created_at, tags, algorithm FROM agents
WHERE id > :after
  AND (:status IS NULL OR status = :status)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag))
  AND (:query IS NULL OR instr(casefold(id), :query) OR instr(casefold(coalesce(name, '')), :query))
ORDER BY id LIMIT :limit
"""
_CHANGE = """
UPDATE agents SET name = coalesce(?, name), metadata = coalesce(?, metadata), tags = coalesce(?, tags)
WHERE id = ?
RETURNING id, name, status, last_seen, metadata, created_at, tags, algorithm
"""
_MARK = "UPDATE agents SET status = ?, last_seen = coalesce(?, last_seen) WHERE id = ?"
_KEYS = "SELECT id, algorithm, sealed_secret, public_key, token_hash, sealed_token FROM agents ORDER BY id"


class SQLiteAgents:
    """Implements `pingup.ports.AgentStore`."""

    def __init__(self, database: Database, sealing: Sealing) -> None:
        self._database = database
        self._sealing = sealing

    async def add(self, agent: Agent, key: AgentKey) -> None:
        row = (
            agent.id,
            agent.name,
            agent.status.value,
            moment_text(agent.last_seen),
            json_text(agent.metadata),
            moment_text(agent.created_at),
            json_text(agent.tags),
            key.algorithm.value,
            self._seal(_owner(agent.id), key.secret),
            key.public_key,
            key.token_hash,
            self._seal(_token_owner(agent.id), key.token),
        )

        async def insert(connection: Connection) -> None:
            await connection.execute(_INSERT, row)

        try:
            await self._database.write(insert)
        except sqlite3.IntegrityError as problem:
            if problem.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
                raise Conflict(f"agent {agent.id} exists already") from problem
            raise Conflict("another agent has this secret") from problem

    async def get(self, agent_id: str) -> Agent | None:
        rows = await self._database.read(_GET, (agent_id,))
        return _agent(rows[0]) if rows else None

    async def page(
        self, *, status: Presence | None, tag: str | None, query: str | None, limit: int, after: str | None
    ) -> list[Agent]:
        wanted = {
            "status": None if status is None else status.value,
            "tag": tag,
            "query": None if query is None else query.casefold(),
            "limit": limit,
            "after": after or "",
        }
        return [_agent(row) for row in await self._database.read(_PAGE, wanted)]

    async def change(
        self,
        agent_id: str,
        *,
        name: str | None = None,
        metadata: dict[str, Any] | None = None,
        tags: Sequence[str] | None = None,
    ) -> Agent | None:
        values = (
            name,
            None if metadata is None else json_text(metadata),
            None if tags is None else json_text(tags),
            agent_id,
        )

        async def update(connection: Connection) -> list[sqlite3.Row]:
            return list(await connection.execute_fetchall(_CHANGE, values))

        rows = await self._database.write(update)
        return _agent(rows[0]) if rows else None

    async def remove(self, agent_id: str) -> bool:
        async def delete(connection: Connection) -> bool:
            gone = await connection.execute_fetchall(
                "DELETE FROM agents WHERE id = ? RETURNING id", (agent_id,)
            )
            return bool(gone)

        return await self._database.write(delete)

    async def mark(self, seen: Iterable[tuple[str, Presence, datetime | None]]) -> None:
        rows = [(status.value, moment_text(at), agent_id) for agent_id, status, at in seen]

        async def update(connection: Connection) -> None:
            await connection.executemany(_MARK, rows)

        if rows:
            await self._database.write(update)

    async def keys(self) -> list[AgentKey]:
        """Every agent's key, opened.

        Raises:
            Unusable: a secret was tampered with, or moved there from another agent.
        """
        return [self._key(row) for row in await self._database.read(_KEYS)]

    def _key(self, row: sqlite3.Row) -> AgentKey:
        agent_id, algorithm, sealed_secret, public_key, token_hash, sealed_token = row
        secret = self._unseal(_owner(agent_id), sealed_secret)
        token = self._unseal(_token_owner(agent_id), sealed_token)
        return AgentKey(agent_id, Algorithm(algorithm), secret, public_key, token_hash, token)

    def _seal(self, owner: str, text: str | None) -> bytes | None:
        return None if text is None else self._sealing.seal(owner, text.encode())

    def _unseal(self, owner: str, sealed: bytes | None) -> str | None:
        return None if sealed is None else self._sealing.unseal(owner, sealed).decode()


def _owner(agent_id: str) -> str:
    return f"agent/{agent_id}"


def _token_owner(agent_id: str) -> str:
    return f"token/{agent_id}"


def _agent(row: sqlite3.Row) -> Agent:
    return Agent(
        id=row["id"],
        name=row["name"],
        status=Presence(row["status"]),
        last_seen=read_optional_moment(row["last_seen"]),
        metadata=read_object(row["metadata"]),
        tags=msgspec.json.decode(row["tags"], type=tuple[str, ...]),
        algorithm=Algorithm(row["algorithm"]),
        created_at=read_moment(row["created_at"]),
    )
