"""A server's services over a real registry, for tests that look at one journey of a message."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from pingup import signing
from pingup.clock import rfc3339
from pingup.crew import Crew
from pingup.model import Inbound, Outcome
from pingup.services.agents import Credentials, Registration
from pingup.services.composition import Services, compose, load
from pingup.services.keyring import Keyring
from pingup.settings import Settings
from pingup.signing import Signer, Vault
from pingup.storage.sqlite import SQLiteRegistry
from pingup.topics import Kind, up
from tests.conftest import ManualClock
from tests.fakes import MemoryDownlink, MemoryTelemetry

SECRET = "agent-a-secret-of-at-least-32-characters"
MASTER_KEY = bytes(Vault.KEY_SIZE)


class House(msgspec.Struct, frozen=True):
    """The services, and the neighbours that a test looks at."""

    services: Services
    telemetry: MemoryTelemetry
    downlink: MemoryDownlink
    registry: SQLiteRegistry
    signer: Signer
    crew: Crew
    clock: ManualClock

    async def register(self, agent_id: str = "A", secret: str = SECRET) -> Credentials:
        wish = Registration(id=agent_id, metadata={}, tags=(), secret=secret)
        return (await self.services.agents.register(wish))[1]

    def inbound(self, kind: Kind, payload: bytes, agent_id: str = "A") -> Inbound:
        return Inbound(kind, agent_id, payload, self.clock.now(), up(agent_id, kind))

    async def send(self, kind: Kind, payload: bytes, agent_id: str = "A") -> Outcome:
        return await self.services.ingest.submit(self.inbound(kind, payload, agent_id))

    def message(self, *, agent_id: str = "A", at: datetime | None = None, **members: Any) -> dict[str, Any]:
        return {"agentId": agent_id, "timestamp": rfc3339(at or self.clock.now()), **members}

    def metrics(self, *, agent_id: str = "A", at: datetime | None = None, **metrics: float) -> bytes:
        return signed(self.message(agent_id=agent_id, at=at, metrics=metrics or {"cpu": 1}, status="online"))


def signed(message: dict[str, Any], secret: str = SECRET) -> bytes:
    return signing.sign(json.dumps(message).encode(), secret)


@asynccontextmanager
async def open_house(
    directory: Path, clock: ManualClock, settings: Settings | None = None
) -> AsyncIterator[House]:
    """Services over `directory`; opened again over the same one they know what they knew."""
    telemetry, downlink = MemoryTelemetry(), MemoryDownlink()
    signer = Signer(bytes(32))
    async with (
        SQLiteRegistry.open(directory / "pingup.db", Vault(MASTER_KEY)) as registry,
        Crew.open() as crew,
    ):
        services = compose(
            settings or Settings(), clock, Keyring(clock), telemetry, registry, downlink, signer, crew
        )
        await load(services, telemetry, registry)
        crew.create_task(services.batcher.run())
        crew.create_task(services.commands.run())
        crew.create_task(services.configs.run())
        yield House(services, telemetry, downlink, registry, signer, crew, clock)
        await services.ingest.drain()
