"""A server as an agent sees it: a real Mosquitto, a cable that can be cut, somebody who signs and reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import aiomqtt
import msgspec

from pingup.agent.run import Agent
from pingup.agent.settings import AgentSettings, load
from pingup.clock import rfc3339
from pingup.codec import decode
from pingup.model import (
    AgentKey,
    Algorithm,
    CommandReport,
    ConfigReport,
    Message,
    Numbering,
    StatusReport,
    TelemetryReport,
)
from pingup.signing import sign, verify
from pingup.topics import SYS_STATUS, down_commands, down_config, down_receipts, parse_up
from tests.mosquitto import HOST, LISTENER, running_mosquitto

ID = "edge-1"
SECRET = "a secret of the agent edge-1, long enough"
KEY = AgentKey(ID, Algorithm.HMAC_SHA256, SECRET, None, b"")
LIMIT = 20.0
OPEN_BROKER = f"""# for tests
{LISTENER}
allow_anonymous true
log_dest stderr
"""

M = TypeVar("M", bound=Message)
Signing = Callable[[bytes], bytes]


def by_secret(body: bytes) -> bytes:
    return sign(body, SECRET)


class Cable:
    """A TCP proxy before a broker: it can be cut, and plugged into another broker."""

    def __init__(self) -> None:
        self._broker = 0
        self._plugged = asyncio.Event()
        self._flowing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    def plug(self, broker: int) -> None:
        """Carry to this port, also those who wait since it was unplugged."""
        self._broker = broker
        self._flowing.set()
        self._plugged.set()

    def stall(self) -> None:
        """Carry nothing any more, while the connections stay."""
        self._flowing.clear()

    def unplug(self) -> None:
        """Cut, and let whoever connects wait."""
        self._plugged.clear()
        self.cut()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._carry, HOST, 0)
        try:
            async with server:
                yield server.sockets[0].getsockname()[1]
        finally:
            self.cut()

    def cut(self) -> None:
        """Break every connection, without a word."""
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        await self._plugged.wait()
        there, back = await asyncio.open_connection(HOST, self._broker)
        self._writers.add(back)
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        self._writers -= {writer, back}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class Server:
    """Reads what agents say, after verifying it, and signs what they are told."""

    def __init__(self, client: aiomqtt.Client, key: AgentKey, signing: Signing) -> None:
        self._client = client
        self._key = key
        self._signing = signing
        self._arrived = asyncio.Condition()
        self.messages: list[Message] = []

    async def read(self) -> None:
        async for message in self._client.messages:
            route = parse_up(message.topic.value)
            assert route is not None, message.topic
            verify(message.payload, self._key)
            async with self._arrived:
                self.messages.append(decode(route[1], message.payload))
                self._arrived.notify_all()

    async def expect(self, wanted: type[M], fits: Callable[[M], bool] = lambda _: True, after: int = 0) -> M:
        """The first message of a type that fits, of those that came after so many others."""

        def found() -> M | None:
            some = (message for message in self.messages[after:] if isinstance(message, wanted))
            return next((message for message in some if fits(message)), None)

        async with asyncio.timeout(LIMIT), self._arrived:
            await self._arrived.wait_for(lambda: found() is not None)
        message = found()
        assert message is not None
        return message

    async def birth(self, after: int = 0) -> StatusReport:
        return await self.expect(StatusReport, lambda status: status.online, after)

    async def sample(self, after: int = 0) -> TelemetryReport:
        return await self.expect(TelemetryReport, after=after)

    async def numbered(self, seq: int, after: int = 0) -> Numbering:
        """The first message with this number; how it was numbered."""

        def fits(report: TelemetryReport) -> bool:
            return report.numbering is not None and report.numbering.seq == seq

        report = await self.expect(TelemetryReport, fits, after)
        assert report.numbering is not None
        return report.numbering

    @property
    def numbers(self) -> list[int]:
        """The numbers of all numbered messages, in the order in which they came."""
        reports = (message for message in self.messages if isinstance(message, TelemetryReport))
        return [report.numbering.seq for report in reports if report.numbering is not None]

    async def report(self, command_id: str, *statuses: str, after: int = 0) -> CommandReport:
        return await self.expect(
            CommandReport,
            lambda report: report.command_id == command_id and (report.status in statuses),
            after,
        )

    async def end(self, command_id: str, after: int = 0) -> tuple[str, Any]:
        """How a command ended: its status and its result."""
        report = await self.report(command_id, "completed", "failed", "rejected", after=after)
        return report.status.value, msgspec.json.decode(report.result or "null")

    async def config_report(self, version: int, after: int = 0) -> ConfigReport:
        return await self.expect(ConfigReport, lambda report: report.version == version, after)

    @property
    def commands(self) -> list[CommandReport]:
        """All that was said of commands."""
        return [message for message in self.messages if isinstance(message, CommandReport)]

    def life(self, command_id: str) -> list[str]:
        """All that was said of a command."""
        return [report.status.value for report in self.commands if report.command_id == command_id]

    async def send(self, payload: bytes, *, retain: bool = False, config: bool = False) -> None:
        topic = down_config(ID) if config else down_commands(ID)
        await self._client.publish(topic, payload, qos=1, retain=retain)

    async def command(self, action: str, params: Any = None, **members: Any) -> str:
        """Send a command; its id."""
        body = command_body(action, params, **members)
        await self.send(self._signing(msgspec.json.encode(body)))
        return str(body["commandId"])

    async def run(self, action: str, params: Any = None) -> tuple[str, Any]:
        """Send a command and wait for its end."""
        return await self.end(await self.command(action, params))

    async def config(self, version: int, config: Any, *, retain: bool = True, **members: Any) -> None:
        body = {"agentId": ID, "version": version, "config": config, "updatedAt": rfc3339(now()), **members}
        await self.send(self._signing(msgspec.json.encode(body)), retain=retain, config=True)

    async def receipt(self, stream: str, seq: int, signing: Signing | None = None, **members: Any) -> None:
        """Say up to where everything has come."""
        body = {"agentId": ID, "stream": stream, "seq": seq, "updatedAt": rfc3339(now()), **members}
        payload = (signing or self._signing)(msgspec.json.encode(body))
        await self._client.publish(down_receipts(ID), payload, qos=0)

    async def status(self, status: str) -> None:
        """Say that the server is there, or as the broker would that it is not."""
        payload = msgspec.json.encode({"status": status, "at": rfc3339(now())})
        await self._client.publish(SYS_STATUS, payload, qos=1, retain=True)

    async def settled(self) -> None:
        """Return once the agent has taken everything that was sent to it before."""
        await self.run("ping")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event: files, processes of others."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def counting() -> AsyncIterator[tuple[str, asyncio.Semaphore]]:
    """An address to measure latency to, and a count of how often that was done."""
    measured = asyncio.Semaphore(0)

    def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        measured.release()
        writer.close()

    async with await asyncio.start_server(count, HOST, 0) as target:
        yield f"{HOST}:{target.sockets[0].getsockname()[1]}", measured


async def two_more(measured: asyncio.Semaphore) -> None:
    """Wait until it was done two more times, so that the first of them is through."""
    async with asyncio.timeout(LIMIT):
        while not measured.locked():
            await measured.acquire()
        await measured.acquire()
        await measured.acquire()


def now() -> datetime:
    return datetime.now(UTC)


def command_body(action: str, params: Any = None, **members: Any) -> dict[str, Any]:
    return {
        "agentId": ID,
        "commandId": f"CMD-{uuid4()}",
        "action": action,
        "params": params or {},
        "issuedAt": rfc3339(now()),
        "expiresAt": rfc3339(now() + timedelta(hours=1)),
        **members,
    }


@asynccontextmanager
async def running_server(
    port: int, key: AgentKey = KEY, signing: Signing = by_secret
) -> AsyncIterator[Server]:
    async with aiomqtt.Client(HOST, port) as client:
        await client.subscribe("pingup/v1/up/#", qos=1)
        server = Server(client, key, signing)
        reading = asyncio.create_task(server.read())
        try:
            yield server
        finally:
            reading.cancel()
            await asyncio.wait([reading])
    if not reading.cancelled():
        await reading


def settings_of(directory: Path, port: int, **flags: Any) -> AgentSettings:
    """Settings of a quick agent; flags by dotted name, with a double underscore for the dot."""
    named = {name.replace("__", "."): value for name, value in flags.items()}
    defaults = {
        "id": ID,
        "url": f"mqtt://{HOST}:{port}",
        "data_dir": directory / "agent",
        "interval": 60,
        "reconnect.first": 0.02,
        "reconnect.limit": 0.2,
    }
    keys = {} if "seed" in named else {"secret": SECRET}
    return load(flags={**defaults, **keys, **named}, environ={})


@asynccontextmanager
async def running_agent(settings: AgentSettings) -> AsyncIterator[None]:
    """An agent in this process, stopped as a signal would stop it."""
    running = asyncio.create_task(Agent(settings).run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
    if not running.cancelled():
        await running


class Rig(NamedTuple):
    server: Server
    cable: Cable
    broker: int


@asynccontextmanager
async def rig(directory: Path, **flags: Any) -> AsyncIterator[Rig]:
    """A broker, a cable, a server, and an agent that has given birth."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(running_mosquitto(directory, OPEN_BROKER))
        cable = Cable()
        cable.plug(broker.port)
        port = await stack.enter_async_context(cable.listening())
        server = await stack.enter_async_context(running_server(broker.port))
        await stack.enter_async_context(running_agent(settings_of(directory, port, **flags)))
        await server.birth()
        yield Rig(server, cable, broker.port)
