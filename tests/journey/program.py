"""The installed program as a user starts it, and clients that know nothing of its inside.

`PINGUP_TEST_BROKER=mosquitto` gives every server a Mosquitto in place of its embedded broker.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp
import aiomqtt

from tests import devices
from tests.mosquitto import running_dynsec

T = TypeVar("T")

LIMIT = 20.0  # seconds that anything may take before a test gives up
EMBEDDED, MOSQUITTO = "embedded", "mosquitto"
BROKER = os.environ.get("PINGUP_TEST_BROKER", EMBEDDED)
READY = re.compile(r"pingup ready http=(http://\S+) mqtt=mqtt://([^:\s]+):(\d+)")


@dataclass
class Ended:
    """A program that has ended."""

    code: int
    out: str
    err: str


async def run(*args: str, environ: dict[str, str] | None = None) -> Ended:
    """Run `pingup` to its end."""
    process = await start(*args, environ=environ)
    async with asyncio.timeout(LIMIT):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def start(*args: str, environ: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    """Start `pingup` with nothing of the tests' own environment that could set it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PINGUP_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pingup", *args),
        env={**clean, **(environ or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


class Operator(NamedTuple):
    """How a person logs in to the broker; the token is also the bearer for REST."""

    user: str
    token: str


@dataclass
class Running:
    """A server that is ready."""

    process: asyncio.subprocess.Process
    url: str
    mqtt_host: str
    mqtt_port: int
    directory: Path
    http: aiohttp.ClientSession
    broker: str

    @property
    def admin_token(self) -> str:
        return (self.directory / "admin.token").read_text().strip()

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, status: int = 200
    ) -> Any:
        """A REST call as an admin; the decoded answer, which must have this status."""
        headers = {"Authorization": f"Bearer {token or self.admin_token}"}
        async with self.http.request(method, self.url + path, json=body, headers=headers) as answer:
            text = await answer.text()
            assert answer.status == status, f"{method} {path}: {answer.status} {text}"
            return json.loads(text)

    async def register(self, agent_id: str, **members: Any) -> Device:
        """Register an agent by REST, and hold its credentials."""
        answer = await self.call("POST", "/api/v1/agents", {"id": agent_id, **members}, status=201)
        credentials = answer["credentials"]
        return Device(agent_id, credentials["secret"], credentials["token"], server=self)

    async def operator(self, scope: str = "read") -> Operator:
        """A new API token."""
        answer = await self.call("POST", "/api/v1/tokens", {"name": "test", "scope": scope}, status=201)
        user = "operator" if self.broker == EMBEDDED else f"operator.{answer['id']}"
        return Operator(user, answer["token"])

    async def until_linked(self) -> None:
        """Wait until the server has its broker: one outside keeps nothing for a server that never came."""
        async with asyncio.timeout(LIMIT):
            while self.broker != EMBEDDED:
                async with self.http.get(f"{self.url}/health") as answer:
                    if (await answer.json())["components"]["mqtt"]["status"] == "healthy":
                        return
                await asyncio.sleep(0.01)

    async def watcher(self, scope: str = "read") -> aiomqtt.Client:
        """A person's client, not yet connected."""
        return self.mqtt(*await self.operator(scope))

    def mqtt(self, user: str, password: str, client_id: str | None = None, **options: Any) -> aiomqtt.Client:
        return aiomqtt.Client(
            self.mqtt_host, self.mqtt_port, username=user, password=password, identifier=client_id, **options
        )

    async def soon(self, read: Callable[[], Awaitable[T]], is_there: Callable[[T], bool]) -> T:
        """What a read finds once the server has what its broker has acknowledged.

        That is at once, and is read just once, where the broker is the server's own.
        """
        async with asyncio.timeout(LIMIT):
            while not is_there(found := await read()) and self.broker != EMBEDDED:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return found

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> Ended:
        """Stop it as a supervisor does; what it said."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return Ended(self.process.returncode, out.decode(), err.decode())


@dataclass
class Device(devices.Device):
    """A stranger's agent with its way to the server."""

    server: Running = field(kw_only=True)

    def mqtt(self, **options: Any) -> aiomqtt.Client:
        return self.server.mqtt(self.id, self.token, self.id, **options)

    async def publish(self, kind: str, *messages: bytes) -> None:
        """Publish with QoS 1 and wait for each PUBACK."""
        async with asyncio.timeout(LIMIT), self.mqtt() as client:
            for message in messages:
                await client.publish(f"pingup/v1/up/{self.id}/{kind}", message, qos=1)

    async def history(self, count: int) -> list[dict[str, Any]]:
        """The samples that are stored, newest first; there must be this many."""

        async def read() -> list[dict[str, Any]]:
            path = f"/api/v1/metrics/{self.id}?limit=10000"
            samples: list[dict[str, Any]] = (await self.server.call("GET", path))["metrics"]
            return samples

        found = await self.server.soon(read, lambda samples: len(samples) >= count)
        assert len(found) == count
        return found


@asynccontextmanager
async def serving(
    directory: Path, *args: str, environ: dict[str, str] | None = None, broker: str = BROKER
) -> AsyncIterator[Running]:
    """`pingup serve` on free ports, ready; killed at the end if it still runs."""
    async with broker_for(directory, broker) as settings:
        flags = ("--data-dir", str(directory), "--http-port", "0", "--mqtt-port", "0")
        process = await start("serve", *flags, *args, environ={**settings, **(environ or {})})
        try:
            assert process.stdout is not None
            async with asyncio.timeout(LIMIT):
                line = (await process.stdout.readline()).decode()
            found = READY.match(line)
            if found is None:
                _, err = await process.communicate()
                raise AssertionError(f"the server did not start: {line}{err.decode()}")
            async with aiohttp.ClientSession() as http:
                running = Running(process, found[1], found[2], int(found[3]), directory, http, broker)
                await running.until_linked()
                yield running
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


@asynccontextmanager
async def broker_for(directory: Path, broker: str = BROKER) -> AsyncIterator[dict[str, str]]:
    """The broker of the server with this data directory; gives the settings, as environment, that lead there.

    A Mosquitto keeps what it has beside the data directory, and has it again when the server starts again.
    """
    if broker == EMBEDDED:
        yield {}
        return
    home = directory.with_name(f"{directory.name}.mosquitto")
    home.mkdir(exist_ok=True)
    password = home / "server.password"
    if not password.exists():
        password.write_text(secrets.token_urlsafe(16))
    async with running_dynsec(home) as mosquitto:
        yield {
            "PINGUP_MQTT__URL": mosquitto.url("server", password.read_text()),
            "PINGUP_MQTT__CONTROL_URL": mosquitto.control_url,
        }
