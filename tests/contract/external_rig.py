"""The link to a real Mosquitto, with neighbours that a test can hold back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt

from pingup.brokers.external import External
from pingup.brokers.session import Message, Options, at_once, connect
from pingup.clock import SystemClock
from pingup.crew import Crew
from tests.contract.broker_rig import PATIENCE, CountedRejects, HeldIngest, edge
from tests.mosquitto import HOST, Mosquitto, running_mosquitto

CONFIG = f"""
listener 1883 {HOST}
allow_anonymous true
persistence true
persistence_location ./
max_queued_messages 100000
log_dest stderr
log_type all
"""


@asynccontextmanager
async def a_mosquitto(directory: Path, more: str = "", port: int | None = None) -> AsyncIterator[Mosquitto]:
    """Started again in the same directory it knows its sessions and retained messages."""
    _make(directory)
    async with running_mosquitto(directory, CONFIG + more, port) as mosquitto:
        yield mosquitto


def _make(directory: Path) -> None:
    directory.mkdir(exist_ok=True)


class Link:
    """An open link, and everything around it."""

    def __init__(self, options: Options, crew: Crew) -> None:
        self.ingest = HeldIngest()
        self.rejects = CountedRejects()
        self.sessions: list[bool] = []
        """For each connect, whether the broker still knew our session."""
        self.at_connect: Callable[[], None] = lambda: None
        self.external = External(options, url="mqtt://broker", crew=crew, clock=SystemClock())
        self._crew = crew
        self._connected = asyncio.Event()
        self._edge = edge(self.ingest, self.rejects, on_connected=self._note)

    def _note(self) -> None:
        self.at_connect()
        connection = self.external._connection
        assert connection is not None
        self.sessions.append(connection.terms.session_present)
        self._connected.set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with self.external.open(self._edge):
            try:
                yield
            finally:
                # A closing link waits for what it has offered.
                self.ingest.release()

    async def connects(self, count: int = 1) -> None:
        """Wait until it was connected so many times."""
        async with asyncio.timeout(PATIENCE):
            while len(self.sessions) < count:
                self._connected.clear()
                await self._connected.wait()

    async def fails(self, words: str) -> None:
        """Wait until the problem has these words."""
        await until(lambda: words in (self.external.problem or ""))


@asynccontextmanager
async def linked(
    port: int, *, is_up: bool = True, is_full: bool = False, **options: Any
) -> AsyncIterator[Link]:
    """A link to a broker on this port; with `is_up` it is connected already, `is_full` has no room."""
    settings: dict[str, Any] = {
        "host": HOST,
        "client_id": "server",
        "clean_start": False,
        "session_expiry": 86_400,
        **options,
    }
    async with Crew.open() as crew:
        link = Link(Options(port=port, **settings), crew)
        if is_full:
            link.ingest.space.clear()
        async with link.open():
            if is_up:
                await link.connects()
            yield link


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not is_so():  # noqa: ASYNC110 - of a problem nobody tells
            await asyncio.sleep(0.01)


@asynccontextmanager
async def device(port: int, name: str = "A", **options: Any) -> AsyncIterator[aiomqtt.Client]:
    """Somebody else at the broker, with another client library."""
    version = aiomqtt.ProtocolVersion.V5
    async with aiomqtt.Client(HOST, port, identifier=name, protocol=version, **options) as client:
        yield client


async def publish(port: int, *messages: tuple[str, bytes], retain: bool = False) -> None:
    """Publish with QoS 1, each acknowledged by the broker."""
    async with device(port, "publisher") as client:
        for topic, payload in messages:
            await client.publish(topic, payload, qos=1, retain=retain)


async def flood(port: int, topic: str, payloads: list[bytes]) -> None:
    """Publish many with QoS 1, as fast as the broker takes them."""
    options = Options(host=HOST, port=port, client_id="flood")
    async with connect(options, at_once) as connection:
        await asyncio.gather(*(connection.publish(topic, payload) for payload in payloads))


async def hear(client: aiomqtt.Client, count: int) -> list[tuple[str, bytes, bool]]:
    """The next messages: topic, payload, retained."""
    heard: list[tuple[str, bytes, bool]] = []
    async with asyncio.timeout(PATIENCE):
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            heard.append((str(message.topic), message.payload, message.retain))
            if len(heard) == count:
                break
    return heard


async def still_queued(port: int, client_id: str = "server") -> list[bytes]:
    """What the broker still holds for a session, unacknowledged or never sent; the session stays."""
    held: list[bytes] = []
    marked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(messages: list[Message]) -> list[asyncio.Future[None] | None]:
        return [take_one(message) for message in messages]

    def take_one(message: Message) -> asyncio.Future[None] | None:
        if message.payload == b"mark":
            marked.set_result(None)
            return None
        held.append(message.payload)
        return asyncio.get_running_loop().create_future()  # never acknowledged

    options = Options(
        host=HOST,
        port=port,
        client_id=client_id,
        clean_start=False,
        session_expiry=86_400,
        receive_maximum=60_000,  # the highest number, 65,535, is what Mosquitto takes for none
    )
    async with connect(options, take) as connection:
        await _publish_mark(port)
        await connection.until(marked)
    return held


async def _publish_mark(port: int) -> None:
    """It comes after all that is queued: a broker keeps the order."""
    await publish(port, ("pingup/v1/up/mark", b"mark"))
