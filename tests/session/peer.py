"""A broker that says what the test tells it to, packet by packet, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import mqtt5

from pingup.brokers.session import Connection, Message, OnMessages, Options, connect

PATIENCE = 5.0
HOST = "127.0.0.1"

P = TypeVar("P", bound=mqtt5.Packet)


class Peer:
    """The broker's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._buffer = b""

    def send(self, *packets: mqtt5.Packet | bytes) -> None:
        """All in one write."""
        self.writer.write(b"".join(p if isinstance(p, bytes) else p.write() for p in packets))

    async def read(self) -> mqtt5.Packet:
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(IndexError):  # not complete yet
                    packet, size = mqtt5.read(memoryview(self._buffer))
                    self._buffer = self._buffer[size:]
                    return packet
                more = await self._reader.read(65536)
                assert more, "the connection is closed"
                self._buffer += more

    async def expect(self, kind: type[P]) -> P:
        """The next packet but pings, which must be of this kind."""
        while (
            isinstance(packet := await self.read(), mqtt5.PingReqPacket) and kind is not mqtt5.PingReqPacket
        ):
            pass
        assert isinstance(packet, kind), packet
        return packet

    async def acks(self, count: int) -> list[int]:
        """The packet ids of the next PUBACKs."""
        return [(await self.expect(mqtt5.PubAckPacket)).packet_id for _ in range(count)]

    async def next_bytes(self) -> bytes:
        """What comes next, as it comes."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read(65536)

    async def welcome(self, **terms: Any) -> mqtt5.ConnectPacket:
        """Answer the CONNECT with these terms."""
        greeting = await self.expect(mqtt5.ConnectPacket)
        self.send(mqtt5.ConnAckPacket(**terms))
        return greeting

    async def grant(self, code: mqtt5.SubAckReasonCode | None = None) -> mqtt5.SubscribePacket:
        """Answer the SUBSCRIBE, with its own QoS unless said otherwise."""
        asked = await self.expect(mqtt5.SubscribePacket)
        codes = [code or _granted(one) for one in asked.topic_filters]
        self.send(mqtt5.SubAckPacket(asked.packet_id, codes))
        return asked

    async def is_closed(self) -> bool:
        """Wait until the other end closes; what comes before is read over."""
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                while await self._reader.read(65536):
                    pass
        return True

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def _granted(one: mqtt5.TopicFilter) -> mqtt5.SubAckReasonCode:
    return mqtt5.SubAckReasonCode(int(one.max_qos))


class ScriptedBroker:
    """Listens; each connection is the test's to answer."""

    def __init__(self) -> None:
        self.port = 0
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._all: list[Peer] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, host: str = HOST) -> AsyncIterator[ScriptedBroker]:
        broker = cls()
        server = await asyncio.start_server(broker._accept, host, 0)
        broker.port = server.sockets[0].getsockname()[1]
        async with server:
            try:
                yield broker
            finally:
                for peer in broker._all:
                    await peer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self._all.append(peer)
        await self._peers.put(peer)

    async def peer(self) -> Peer:
        """The next connection."""
        async with asyncio.timeout(PATIENCE):
            return await self._peers.get()

    def options(self, **more: Any) -> Options:
        defaults: dict[str, Any] = {"client_id": "tester", "keep_alive": 0, "leave_within": 0.05}
        return Options(host=HOST, port=self.port, **{**defaults, **more})


class Inbox:
    """Takes messages, with verdicts that the test gives; with `is_instant` there are none to wait for."""

    def __init__(self) -> None:
        self.is_instant = True
        self.messages: list[Message] = []
        self.verdicts: list[asyncio.Future[None]] = []
        self._news = asyncio.Event()

    def take(self, messages: list[Message]) -> list[asyncio.Future[None] | None]:
        self._news.set()
        return [self._take(message) for message in messages]

    def _take(self, message: Message) -> asyncio.Future[None] | None:
        self.messages.append(message)
        if self.is_instant:
            return None
        verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.verdicts.append(verdict)
        return verdict

    async def took(self, count: int) -> list[Message]:
        """Wait until so many messages were taken."""
        async with asyncio.timeout(PATIENCE):
            while len(self.messages) < count:
                self._news.clear()
                await self._news.wait()
        return self.messages


@asynccontextmanager
async def connected(
    broker: ScriptedBroker,
    on_messages: OnMessages | None = None,
    terms: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Connection, Peer]]:
    """A connection that the broker has welcomed, both its ends."""

    async def welcome() -> Peer:
        peer = await broker.peer()
        await peer.welcome(**(terms or {}))
        return peer

    welcoming = asyncio.create_task(welcome())
    async with connect(broker.options(**options), on_messages or Inbox().take) as connection:
        yield connection, await welcoming


def publish(number: int, topic: str = "a/b", payload: bytes = b"x") -> mqtt5.PublishPacket:
    """A QoS 1 PUBLISH with this packet id."""
    return mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=number)
