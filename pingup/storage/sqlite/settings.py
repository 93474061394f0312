"""What the server keeps for itself by name, sealed: the table `settings`."""

from __future__ import annotations

from aiosqlite import Connection

from pingup.storage.sqlite.database import Database
from pingup.storage.sqlite.sealing import Sealing

_WRITE = """
INSERT INTO settings (name, sealed) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed
"""


class SQLiteSettings:
    """Implements `pingup.ports.SettingStore`."""

    def __init__(self, database: Database, sealing: Sealing) -> None:
        self._database = database
        self._sealing = sealing

    async def read(self, name: str) -> bytes | None:
        """The value under a name.

        Raises:
            Unusable: it was sealed with another master key, tampered with, or moved there from another name.
        """
        rows = await self._database.read("SELECT sealed FROM settings WHERE name = ?", (name,))
        return self._sealing.unseal(_owner(name), rows[0]["sealed"]) if rows else None

    async def write(self, name: str, value: bytes) -> None:
        row = (name, self._sealing.seal(_owner(name), value))

        async def upsert(connection: Connection) -> None:
            await connection.execute(_WRITE, row)

        await self._database.write(upsert)


def _owner(name: str) -> str:
    return f"setting/{name}"
