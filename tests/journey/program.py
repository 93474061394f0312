"""The installed program as a user starts it, and clients that know nothing of its inside."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import aiomqtt

LIMIT = 20.0  # seconds that anything may take before a test gives up
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


@dataclass
class Running:
    """A server that is ready."""

    process: asyncio.subprocess.Process
    url: str
    mqtt_host: str
    mqtt_port: int
    directory: Path
    http: aiohttp.ClientSession

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
        return Device(self, agent_id, answer["credentials"]["secret"], answer["credentials"]["token"])

    async def operator(self, scope: str = "read") -> str:
        """A new API token."""
        answer = await self.call("POST", "/api/v1/tokens", {"name": "test", "scope": scope}, status=201)
        return str(answer["token"])

    def mqtt(self, user: str, password: str, client_id: str | None = None, **options: Any) -> aiomqtt.Client:
        return aiomqtt.Client(
            self.mqtt_host, self.mqtt_port, username=user, password=password, identifier=client_id, **options
        )

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


def sign(body: str, secret: str) -> bytes:
    """Sign a text that ends in a brace, as the contract says, with nothing but the standard library."""
    digest = hmac.new(secret.encode(), body.encode(), hashlib.sha256).digest()
    return f'{body[:-1]},"signature":"{base64.b64encode(digest).decode()}"{body[-1]}'.encode()


@dataclass
class Device:
    """A stranger's agent: all that it knows is its credentials and the contract."""

    server: Running
    id: str
    secret: str
    token: str
    moment: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(hours=1))

    def mqtt(self, **options: Any) -> aiomqtt.Client:
        return self.server.mqtt(self.id, self.token, self.id, **options)

    def next_moment(self) -> str:
        self.moment += timedelta(milliseconds=1)
        return self.moment.isoformat()

    def sign(self, **members: Any) -> bytes:
        """A signed message, its text put together by hand."""
        body = json.dumps({"agentId": self.id, "timestamp": self.next_moment(), **members})
        return sign(body, self.secret)

    def sample(self, cpu: float = 1.0, **more: Any) -> bytes:
        return self.sign(metrics={"cpu": cpu, **more}, status="online")

    def verify(self, message: bytes) -> dict[str, Any]:
        """The content of a message of the server, its signature checked by hand."""
        found = re.search(rb',\s*"signature"\s*:\s*"([^"]+)"(?=\s*\}\s*$)', message)
        assert found is not None
        signed = message[: found.start()] + message[found.end() :]
        digest = hmac.new(self.secret.encode(), signed, hashlib.sha256).digest()
        assert base64.b64encode(digest) == found[1]
        content: dict[str, Any] = json.loads(message)
        return content

    async def publish(self, kind: str, *messages: bytes) -> None:
        """Publish with QoS 1 and wait for each PUBACK."""
        async with asyncio.timeout(LIMIT), self.mqtt() as client:
            for message in messages:
                await client.publish(f"pingup/v1/up/{self.id}/{kind}", message, qos=1)

    async def history(self, limit: int = 10_000) -> list[dict[str, Any]]:
        path = f"/api/v1/metrics/{self.id}?limit={limit}"
        answer = await self.server.call("GET", path)
        samples: list[dict[str, Any]] = answer["metrics"]
        return samples


@asynccontextmanager
async def serving(
    directory: Path, *args: str, environ: dict[str, str] | None = None
) -> AsyncIterator[Running]:
    """`pingup serve` on free ports, ready; killed at the end if it still runs."""
    flags = ("--data-dir", str(directory), "--http-port", "0", "--mqtt-port", "0")
    process = await start("serve", *flags, *args, environ=environ)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT):
            line = (await process.stdout.readline()).decode()
        found = READY.match(line)
        if found is None:
            _, err = await process.communicate()
            raise AssertionError(f"the server did not start: {line}{err.decode()}")
        async with aiohttp.ClientSession() as http:
            yield Running(process, found[1], found[2], int(found[3]), directory, http)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
