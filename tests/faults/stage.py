"""The processes of a case and the ways between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.faults.broker import Broker
from tests.faults.machine import Server
from tests.faults.message import Device
from tests.faults.obedient import Obedient
from tests.faults.proxy import Proxy
from tests.faults.watcher import Watcher, watching

BYSTANDER, OBEDIENT = "bystander", "obedient"
_AT_A_TIME = 50  # registrations


class Mode(StrEnum):
    """Where the broker is."""

    EMBEDDED = "embedded"
    EXTERNAL = "external"


@dataclass(frozen=True)
class Setting:
    """What a case wants to find."""

    devices: int = 3
    rss_limit: float = 250.0
    """What the server's memory must stay under, in MB (10⁶ bytes)."""
    proxied: bool = False
    """Whether a proxy is on every way but the bystander's."""
    agent_interval: float = 0.2
    """Seconds between two samples of the obedient agent."""
    journal: bool = False
    """Whether small deposits go into the journal first."""
    broker_forgets: bool = False
    """Whether only receipts count, since the broker dies."""


class Stage:
    """A server, its broker, agents that are registered, one of which is real."""

    def __init__(self, directory: Path, mode: Mode, setting: Setting) -> None:
        self.directory = directory
        self.mode = mode
        self.setting = setting
        self.server = Server(directory, ["--log-level", "warning"])
        self.server.has_journal = setting.journal
        self.outside = Broker(directory / "broker") if mode is Mode.EXTERNAL else None
        self.upstream = Proxy()
        """Between the agents and their broker."""
        self.link = Proxy()
        """Between the server and a broker outside."""
        self.devices: list[Device] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[Device, Obedient]]:
        """Start everything; the bystander's credentials and the real agent. At the end nothing runs."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.server.close)
            await self._open_ways(stack)
            await self.server.start()
            names = [f"device-{number}" for number in range(self.setting.devices)]
            bystander, real, *self.devices = await self.register(BYSTANDER, OBEDIENT, *names)
            obedient = Obedient(self.directory, real, self.entrance, self.setting.agent_interval)
            stack.push_async_callback(obedient.close)
            await obedient.start()
            yield bystander, obedient

    async def _open_ways(self, stack: AsyncExitStack) -> None:
        if self.outside is not None:
            stack.push_async_callback(self.outside.close)
            await self.outside.start()
        if self.setting.proxied:
            await stack.enter_async_context(self.upstream.listening(self.door))
            await stack.enter_async_context(self.link.listening(self.door))
        if self.outside is not None:
            port = self.link.port if self.setting.proxied else self.outside.port
            self.server.use_broker(self.outside.url(port))

    @property
    def broker(self) -> Broker:
        """The broker outside, in a case that is only about that."""
        assert self.outside is not None
        return self.outside

    @property
    def door(self) -> int:
        """The port of the broker itself."""
        return self.server.mqtt_port if self.outside is None else self.outside.port

    @property
    def entrance(self) -> int:
        """The port that agents connect to."""
        return self.upstream.port if self.setting.proxied else self.door

    async def register(self, *names: str) -> list[Device]:
        """Register agents, and let them into the broker."""
        devices: list[Device] = []
        for start in range(0, len(names), _AT_A_TIME):
            devices += await asyncio.gather(*map(self._register, names[start : start + _AT_A_TIME]))
        if self.outside is not None:
            await self.outside.admit(devices)
        return devices

    async def _register(self, name: str) -> Device:
        answer = await self.server.call("POST", "/api/v1/agents", {"id": name}, status=201)
        credentials = answer["credentials"]
        return Device(name, credentials["secret"], credentials["token"])

    def watching(self, topic_filter: str) -> AbstractAsyncContextManager[Watcher]:
        """Have somebody write down what is published there."""
        who = ("operator", self.server.admin_token) if self.outside is None else self.outside.watcher
        return watching(self.door, *who, topic_filter)
