"""A whole server behind a real socket, with everything but a broker, and the ways to call it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from pingup import signing
from pingup.clock import rfc3339
from pingup.crew import Crew
from pingup.http.context import Context
from pingup.http.server import Server
from pingup.model import Scope
from pingup.services.agents import Credentials, Registration
from pingup.services.composition import Services, compose, load
from pingup.services.health import Component, HealthCheck, Status
from pingup.services.keyring import Keyring
from pingup.settings import HttpSettings, Settings
from pingup.signing import Signer, Vault
from pingup.storage.duckdb import DuckDBTelemetry
from pingup.storage.sqlite import SQLiteRegistry
from tests.conftest import ManualClock
from tests.fakes import MemoryDownlink

shared_server = pytest.mark.asyncio(loop_scope="module")

PROBLEM = "application/problem+json"
JSON = {"Content-Type": "application/json"}
FREE_PORT = Settings(http=HttpSettings(port=0))
NDJSON = {"Content-Type": "application/x-ndjson"}


class Parts:
    """How the parts of the server are, for tests to change."""

    def __init__(self) -> None:
        self.mqtt = Component(Status.HEALTHY)

    async def look_at_mqtt(self) -> Component:
        return self.mqtt


class Answer(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class House:
    """A running server and a client with an agent's, a reader's, a commander's and an admin's token."""

    def __init__(
        self,
        url: str,
        port: int,
        client: aiohttp.ClientSession,
        services: Services,
        telemetry: DuckDBTelemetry,
        downlink: MemoryDownlink,
        parts: Parts,
        clock: ManualClock,
    ) -> None:
        self.url = url
        self.port = port
        self.client = client
        self.services = services
        self.telemetry = telemetry
        self.downlink = downlink
        self.parts = parts
        self.clock = clock
        self.read = self.command = self.admin = ""
        self._keys: dict[str, Credentials] = {}

    async def move_in(self) -> None:
        """Make the tokens, and the agents `a1` and `b2`."""
        self.read = (await self.services.tokens.create("reader", Scope.READ))[1]
        self.command = (await self.services.tokens.create("commander", Scope.COMMAND))[1]
        self.admin = (await self.services.tokens.create("admin", Scope.ADMIN))[1]
        await self.add_agent("a1")
        await self.add_agent("b2")

    async def add_agent(self, agent_id: str, tags: tuple[str, ...] = ()) -> None:
        wish = Registration(id=agent_id, metadata={}, tags=tags)
        _, self._keys[agent_id] = await self.services.agents.register(wish)

    def token(self, agent_id: str) -> str:
        return self._keys[agent_id].token

    def secret(self, agent_id: str) -> str:
        secret = self._keys[agent_id].secret
        assert secret is not None
        return secret

    async def call(
        self,
        method: str,
        path: str,
        token: str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Call the server; bytes are sent as they are, anything else as JSON.

        Whatever goes wrong is a problem document and shows nothing of the inside.
        """
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        data = body
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        skip = () if "Content-Type" in sent else ("Content-Type",)
        async with self.client.request(
            method, self.url + path, data=data, headers=sent, skip_auto_headers=skip
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        check_manners(method, answer)
        return answer

    async def get(self, path: str, token: str | None = None, **headers: str) -> Answer:
        return await self.call("GET", path, token or self.read, headers=headers)

    async def send(
        self, path: str, message: bytes, agent_id: str = "a1", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Post a message as an agent."""
        return await self.call("POST", path, self.token(agent_id), message, headers)

    def sign(self, message: Mapping[str, Any], agent_id: str = "a1") -> bytes:
        return signing.sign(json.dumps(message).encode(), self.secret(agent_id))

    def sample(self, agent_id: str = "a1", *, at: datetime | None = None, **metrics: Any) -> dict[str, Any]:
        """A metrics message without its signature."""
        return {
            "agentId": agent_id,
            "timestamp": rfc3339(at or self.clock.now()),
            "metrics": metrics or {"cpu": 12.5, "ram": 43.2, "disk": 71.4, "latency": 8},
            "status": "online",
        }

    async def store(self, agent_id: str = "a1", *, at: datetime | None = None, **metrics: Any) -> None:
        message = self.sign(self.sample(agent_id, at=at, **metrics), agent_id)
        answer = await self.send("/api/v1/metrics", message, agent_id)
        assert answer.status == 201, answer.body

    async def stored(self, agent_id: str = "a1") -> list[dict[str, Any]]:
        """What is stored of an agent, newest first."""
        found: list[dict[str, Any]] = (await self.get(f"/api/v1/metrics/{agent_id}?limit=10000")).json[
            "metrics"
        ]
        return found

    def ago(self, **lapse: float) -> datetime:
        return self.clock.now() - timedelta(**lapse)


def check_manners(method: str, answer: Answer) -> None:
    """What holds for every answer."""
    assert answer.headers["Server"] == "pingup"
    assert b"Traceback" not in answer.body
    assert b".py" not in answer.body
    is_health = answer.body.startswith(b'{"status":')
    if answer.status < 400 or method == "HEAD" or is_health:
        return
    assert answer.headers["Content-Type"] == PROBLEM
    document = answer.json
    assert document["status"] == answer.status
    assert document["type"] == "about:blank"
    assert document["title"]
    assert document["detail"]


@asynccontextmanager
async def open_house(
    directory: Path, clock: ManualClock, settings: Settings = FREE_PORT
) -> AsyncIterator[House]:
    """A server on a free port with empty databases."""
    downlink, parts = MemoryDownlink(), Parts()
    async with (
        await DuckDBTelemetry.open(directory / "analytics.duckdb") as telemetry,
        SQLiteRegistry.open(directory / "pingup.db", Vault(Vault.new_key())) as registry,
        Crew.open() as crew,
    ):
        signer = Signer(signing.new_seed())
        keyring = Keyring(clock, secret_as_bearer=settings.security.secret_as_bearer)
        services = compose(settings, clock, keyring, telemetry, registry, downlink, signer, crew)
        await load(services, telemetry, registry)
        committing = crew.create_task(services.batcher.run())
        health = HealthCheck(clock, {"mqtt": parts.look_at_mqtt})
        context = Context.of(settings, services, health, clock)
        async with (
            Server.open(context, settings.http) as server,
            aiohttp.ClientSession() as client,
        ):
            house = House(server.url, server.port, client, services, telemetry, downlink, parts, clock)
            await house.move_in()
            yield house
        await services.ingest.drain()
        services.batcher.close()
        await asyncio.wait([committing])


class Wire:
    """A bare connection, for what no client library would send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, house: House) -> AsyncIterator[Wire]:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        try:
            async with asyncio.timeout(20):
                yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def answer(self) -> Answer:
        """The next answer, with its body by its length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get("Content-Length", "0")))
        return Answer(int(first.split()[1]), headers, body)
