"""The registry as the services see it: a store for each noun, over one open database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from aiosqlite import Connection

from pingup.errors import Unavailable, Unusable
from pingup.signing import Vault
from pingup.storage.sqlite.agents import SQLiteAgents
from pingup.storage.sqlite.commands import SQLiteCommands
from pingup.storage.sqlite.configs import SQLiteConfigs
from pingup.storage.sqlite.database import Database, open_database, open_database_read_only
from pingup.storage.sqlite.sealing import Sealing
from pingup.storage.sqlite.settings import SQLiteSettings
from pingup.storage.sqlite.tokens import SQLiteTokens

# Sealed at the first start, so that a later start with another master key is noticed before it seals with it.
_KEY_CHECK = "master-key-check"
_KEY_CHECK_TEXT = b"this opens with the right master key"


class SQLiteRegistry:
    """Implements `pingup.ports.Registry`."""

    def __init__(self, database: Database, sealing: Sealing) -> None:
        self._database = database
        self._agents = SQLiteAgents(database, sealing)
        self._commands = SQLiteCommands(database)
        self._configs = SQLiteConfigs(database)
        self._tokens = SQLiteTokens(database)
        self._settings = SQLiteSettings(database, sealing)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, vault: Vault) -> AsyncIterator[Self]:
        """Make or migrate the file, check that the master key is its own, and open it.

        Leaving the context finishes the writes that wait.

        Raises:
            Unusable: the file cannot be used (see `migrate`), is damaged, or another master key sealed it.
        """
        async with open_database(path) as database:
            registry = cls(database, Sealing(vault, path))
            await registry._check_master_key()
            yield registry

    @classmethod
    @asynccontextmanager
    async def open_read_only(cls, path: Path, vault: Vault) -> AsyncIterator[Self]:
        """Open the file beside a server that may be running, and change nothing.

        Raises:
            Unusable: the file cannot be used (see `check_version`), or another master key sealed it.
        """
        async with open_database_read_only(path) as database:
            registry = cls(database, Sealing(vault, path))
            await registry._settings.read(_KEY_CHECK)
            yield registry

    @property
    def agents(self) -> SQLiteAgents:
        return self._agents

    @property
    def commands(self) -> SQLiteCommands:
        return self._commands

    @property
    def configs(self) -> SQLiteConfigs:
        return self._configs

    @property
    def tokens(self) -> SQLiteTokens:
        return self._tokens

    @property
    def settings(self) -> SQLiteSettings:
        return self._settings

    async def check(self) -> None:
        """Return if the file can be read and the writer gets its lock.

        Raises:
            Unavailable: one of them fails.
        """
        await self._database.read("SELECT id FROM agents LIMIT 1")
        await self._database.write(_nothing)

    async def _check_master_key(self) -> None:
        try:
            if await self._settings.read(_KEY_CHECK) is None:
                await self._settings.write(_KEY_CHECK, _KEY_CHECK_TEXT)
        except Unavailable as problem:
            raise Unusable(str(problem)) from problem


async def _nothing(connection: Connection) -> None:
    """A write that only needs its transaction."""
