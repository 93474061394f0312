"""API tokens by their SHA-256: the table `api_tokens`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime

import msgspec
from aiosqlite import Connection

from pingup.clock import rfc3339
from pingup.errors import Conflict
from pingup.model import ApiToken, Scope
from pingup.storage.sqlite.columns import json_text, moment_text, read_moment, read_optional_moment
from pingup.storage.sqlite.database import Database

_INSERT = """
INSERT INTO api_tokens (id, name, scope, token_hash, created_at, expires_at, last_used_at, tags)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_ALL = """
SELECT id, name, scope, token_hash, created_at, expires_at, last_used_at, tags FROM api_tokens
ORDER BY created_at, id
"""


class SQLiteTokens:
    """Implements `pingup.ports.TokenStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token: ApiToken, token_hash: bytes) -> None:
        """Keep a token.

        Raises:
            Conflict: there is a token with this id, or the same token under another id.
        """
        row = (
            token.id,
            token.name,
            token.scope.value,
            token_hash,
            rfc3339(token.created_at),
            moment_text(token.expires_at),
            moment_text(token.last_used_at),
            json_text(token.tags),
        )

        async def insert(connection: Connection) -> None:
            await connection.execute(_INSERT, row)

        try:
            await self._database.write(insert)
        except sqlite3.IntegrityError as problem:
            raise Conflict(f"token {token.id} exists already") from problem

    async def all(self) -> list[tuple[ApiToken, bytes]]:
        """Every token, the oldest first, with its SHA-256."""
        return [(_token(row), row["token_hash"]) for row in await self._database.read(_ALL)]

    async def remove(self, token_id: str) -> bool:
        async def delete(connection: Connection) -> bool:
            gone = await connection.execute_fetchall(
                "DELETE FROM api_tokens WHERE id = ? RETURNING id", (token_id,)
            )
            return bool(gone)

        return await self._database.write(delete)

    async def used(self, seen: Iterable[tuple[str, datetime]]) -> None:
        rows = [(rfc3339(at), token_id) for token_id, at in seen]

        async def update(connection: Connection) -> None:
            await connection.executemany("UPDATE api_tokens SET last_used_at = ? WHERE id = ?", rows)

        if rows:
            await self._database.write(update)


def _token(row: sqlite3.Row) -> ApiToken:
    return ApiToken(
        id=row["id"],
        name=row["name"],
        scope=Scope(row["scope"]),
        created_at=read_moment(row["created_at"]),
        expires_at=read_optional_moment(row["expires_at"]),
        last_used_at=read_optional_moment(row["last_used_at"]),
        tags=msgspec.json.decode(row["tags"], type=tuple[str, ...]),
    )
