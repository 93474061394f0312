"""Configurations: append-only versions, the newest one signed and retained on the agent's topic."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Any

import msgspec

from pingup.clock import Clock
from pingup.errors import NotFound, Unavailable
from pingup.model import ConfigReport, ConfigVersion, Outcome, ReportedConfig
from pingup.ports import ConfigStore, Downlink
from pingup.services.downward import Downward
from pingup.services.errands import RETRY_AFTER, Errands
from pingup.services.keyring import Keyring
from pingup.topics import down_config

log = logging.getLogger(__name__)


class AgentConfig(msgspec.Struct, frozen=True, rename="camel"):
    """What an agent should have, beside what it says it has."""

    agent_id: str
    version: int
    config: dict[str, Any]
    updated_at: datetime | None
    reported: ReportedConfig | None


class Configs:
    """Keeps each agent's configuration and brings the newest to it."""

    def __init__(
        self, store: ConfigStore, keyring: Keyring, downward: Downward, downlink: Downlink, clock: Clock
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._downward = downward
        self._downlink = downlink
        self._clock = clock
        self._errands = Errands(self._publish)
        self._is_forgotten = asyncio.Event()

    async def get(self, agent_id: str, version: int | None = None) -> AgentConfig:
        """The newest configuration, or the given version; version 0 is the empty one that all start with.

        Raises:
            NotFound: there is no such agent, or it has no such version.
        """
        self._check_agent(agent_id)
        found = await self._store.get(agent_id, version)
        if found is None:
            if version not in (None, 0):
                raise NotFound(f"agent {agent_id} has no configuration version {version}")
            found = ConfigVersion(agent_id, 0, {}, None)
        return await self._with_report(found)

    async def set(self, agent_id: str, config: dict[str, Any], expected: int | None = None) -> AgentConfig:
        """Make and publish the next version; `expected` is the version that it must follow, if any.

        Raises:
            NotFound: there is no such agent.
            PreconditionFailed: another version came in between.
            Invalid: it is too large or nested too deep.
        """
        self._check_agent(agent_id)
        now = self._clock.now()
        # Signed once before it is stored, so that nothing is kept that could never be sent.
        self._message(ConfigVersion(agent_id, 2**31, config, now))
        made = await self._store.add(agent_id, config, now, expected)
        self._errands.call(agent_id)
        return await self._with_report(made)

    async def history(self, agent_id: str, limit: int) -> list[ConfigVersion]:
        """All versions, newest first.

        Raises:
            NotFound: there is no such agent.
        """
        self._check_agent(agent_id)
        return await self._store.history(agent_id, limit)

    async def roll_back(self, agent_id: str, version: int) -> AgentConfig:
        """Make a new version with the content of an old one.

        Raises:
            NotFound: there is no such agent or version.
        """
        old = await self.get(agent_id, version)
        return await self.set(agent_id, old.config)

    async def report(self, report: ConfigReport, at: datetime) -> Outcome:
        """Keep what an agent says of its configuration."""
        await self._store.report(report, at)
        return Outcome(stored=1)

    async def load(self) -> None:
        """Have everything published anew, since a broker may have forgotten."""
        for version in await self._store.newest():
            self._errands.call(version.agent_id)

    def forgotten(self) -> None:
        """The broker may have lost what was retained: everything is published anew."""
        self._is_forgotten.set()

    async def run(self) -> None:
        """Publish what is set, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._errands.run(), name="config deliveries")
            tasks.create_task(self._remind(), name="config reminders")

    async def _remind(self) -> None:
        while True:
            await self._is_forgotten.wait()
            self._is_forgotten.clear()
            try:
                await self.load()
            except Unavailable as problem:
                log.warning("configurations are published later: %s", problem)
                await asyncio.sleep(RETRY_AFTER)
                self._is_forgotten.set()

    def clear(self, agent_id: str) -> None:
        """Take back what is retained for an agent that is no more."""
        self._downlink.emit(down_config(agent_id), b"", retain=True)

    async def _publish(self, agent_id: str) -> None:
        newest = await self._store.get(agent_id)
        message = self._message(newest) if newest is not None else None
        if message is not None:
            await self._downlink.deliver(down_config(agent_id), message, retain=True)

    def _message(self, version: ConfigVersion) -> bytes | None:
        key = self._keyring.key_of(version.agent_id)
        if key is None:
            return None
        members = {
            "agentId": version.agent_id,
            "version": version.version,
            "config": version.config,
            "updatedAt": version.updated_at,
        }
        return self._downward.sign(key, members, "config").message()

    async def _with_report(self, version: ConfigVersion) -> AgentConfig:
        reported = await self._store.reported(version.agent_id)
        return AgentConfig(version.agent_id, version.version, version.config, version.updated_at, reported)

    def _check_agent(self, agent_id: str) -> None:
        if self._keyring.key_of(agent_id) is None:
            raise NotFound(f"there is no agent {agent_id}")
