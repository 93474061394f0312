"""Devices under load: each keeps a message until it is acknowledged, through every end of its connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from random import Random

from tests.contract import mqtt_packets as mqtt
from tests.contract.mqtt_packets import Packet
from tests.faults.machine import HOST
from tests.faults.message import Author, Device, Message
from tests.faults.record import Record

_FORGED = 0.05
_MAX_PACKET_ID = 65_535


def messages(author: Author, chance: Random, victim: Device, forged: float = _FORGED) -> Iterator[Message]:
    """Genuine messages for ever, some forged ones among them."""
    while True:
        yield author.forge(victim) if chance.random() < forged else author.write()


class Sender:
    """A device's MQTT 3.1.1 client. What a session leaves unacknowledged is sent again in the next one."""

    def __init__(
        self,
        device: Device,
        supply: Iterator[Message],
        record: Record,
        port: int,
        *,
        window: int = 20,
        pause: float = 0.0,
        patience: float = 2.0,
        settle: float = 0.1,
        is_proof: bool = True,
    ) -> None:
        """
        Args:
            device: its credentials.
            supply: what it sends; it ends when the supply does.
            record: where it writes down what was acknowledged.
            port: the one to connect to.
            window: messages on their way at a time.
            pause: seconds between two messages.
            patience: seconds to wait for an answer before it connects anew.
            settle: seconds that it waits at most before it connects anew.
            is_proof: whether a PUBACK comes from the server itself.
        """
        self.device = device
        self.answered = 0
        """Messages that it need not care for any more."""
        self.pubacks = 0
        self._supply = supply
        self._record = record
        self._port = port
        self._window = window
        self._pause = pause
        self._patience = patience
        self._chance = Random(device.id)
        self._settle = settle
        self._is_proof = is_proof
        self._is_exhausted = False
        self._numbers = 0
        self._unfinished: dict[int, Message] = {}
        self._outgoing: deque[int] = deque()
        self._in_flight: dict[int, int] = {}
        self._packet_id = 0
        self._may_send = asyncio.Event()
        self._grown = asyncio.Event()

    @property
    def is_done(self) -> bool:
        return self._is_exhausted and not self._unfinished

    @property
    def unfinished(self) -> list[Message]:
        """What it has sent and was not acknowledged."""
        return list(self._unfinished.values())

    def finish(self) -> None:
        """Begin no new message; what has begun still has to be acknowledged."""
        self._is_exhausted = True
        self._may_send.set()

    async def grow(self, by: int) -> None:
        """Wait until so many more of its messages are acknowledged than now, or all are."""
        wanted = self.answered + by
        while self.answered < wanted and not self.is_done:
            await self._grown.wait()

    async def accept(self, by: int) -> None:
        """Wait until the broker has taken so many more of its messages than now."""
        wanted = self.pubacks + by
        while self.pubacks < wanted:
            await self._grown.wait()

    async def run(self) -> None:
        """Send until the supply ends and all is acknowledged."""
        while not self.is_done:
            with suppress(OSError, TimeoutError):
                await self._hold_session()
            if not self.is_done:
                await asyncio.sleep(self._chance.uniform(0, self._settle))

    # --- a session ---------------------------------------------------------------------------------

    async def _hold_session(self) -> None:
        async with asyncio.timeout(self._patience):
            reader, writer = await asyncio.open_connection(HOST, self._port)
        try:
            async with asyncio.timeout(self._patience):
                await self._greet(reader, writer)
            self._in_flight.clear()
            self._outgoing = deque(self._unfinished)
            sending = asyncio.create_task(self._send(writer))
            try:
                await self._read(reader)
            finally:
                sending.cancel()
                await asyncio.wait([sending])
        finally:
            writer.transport.abort()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(mqtt.connect(self.device.id, self.device.id, self.device.token, keep_alive=0))
        answer = await _exactly(reader, 4)
        if answer[0] >> 4 != mqtt.CONNACK or answer[3] != 0:
            raise ConnectionError(f"refused: {answer.hex()}")
        for topic_filter in self.subscriptions():
            writer.write(mqtt.subscribe(topic_filter))

    def subscriptions(self) -> tuple[str, ...]:
        return ()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while not self.is_done:
                self._may_send.clear()
                number = self._next() if self.has_room() else None
                if number is None:
                    await self._may_send.wait()
                    continue
                self._packet_id = self._packet_id % _MAX_PACKET_ID + 1
                self._in_flight[self._packet_id] = number
                message = self._unfinished[number]
                self._record.sent(message)
                writer.write(mqtt.publish(message.topic, message.payload, packet_id=self._packet_id))
                await writer.drain()
                if self._pause:
                    await asyncio.sleep(self._pause)
            # Nothing will come any more that the reader could learn of this by.
            writer.close()

    def _next(self) -> int | None:
        """The number of the message whose turn it is, None if there is none now."""
        while self._outgoing:
            number = self._outgoing.popleft()
            if number in self._unfinished:
                return number
        if self._is_exhausted:
            return None
        message = next(self._supply, None)
        if message is None:
            self.finish()
            return None
        self._numbers += 1
        self._unfinished[self._numbers] = message
        return self._numbers

    async def _read(self, reader: asyncio.StreamReader) -> None:
        buffer = b""
        while not self.is_done:
            try:
                async with asyncio.timeout(self._patience):
                    received = await reader.read(65536)
            except TimeoutError:
                if self._in_flight:
                    raise
                self.again()
                continue
            if not received:
                raise ConnectionError("the connection was closed")
            packets, buffer = split(buffer + received)
            for packet in packets:
                self.take(packet)
            self._may_send.set()

    def has_room(self) -> bool:
        """Whether one more message may be sent now."""
        return len(self._in_flight) < self._window

    def again(self) -> None:
        """All is answered and nothing comes."""

    def take(self, packet: Packet) -> None:
        """Heed a packet from the broker."""
        if packet.kind == mqtt.PUBACK:
            number = self._in_flight.pop(mqtt.number(packet), None)
            if number is not None:
                self.pubacks += 1
                self.accepted(number)
                self._notify()

    def accepted(self, number: int) -> None:
        """A PUBACK has come for this message."""
        self.release(number)

    def release(self, number: int, *, proven: bool = False) -> None:
        """The message is acknowledged, and `proven` by the server itself."""
        message = self._unfinished.pop(number, None)
        if message is not None:
            self.answered += 1
            self._record.acknowledge(message, proven=proven or self._is_proof)
            self._notify()

    def _notify(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()


def split(buffer: bytes) -> tuple[list[Packet], bytes]:
    """The whole packets at the beginning, and the rest."""
    packets: list[Packet] = []
    while len(buffer) >= 2:
        size, shift, at = 0, 0, 1
        while at < len(buffer):
            size |= (buffer[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if not buffer[at - 1] & 0x80:
                break
        else:
            break
        if len(buffer) < at + size:
            break
        packets.append(Packet(buffer[0] >> 4, buffer[0] & 0x0F, buffer[at : at + size]))
        buffer = buffer[at + size :]
    return packets, buffer


async def _exactly(reader: asyncio.StreamReader, size: int) -> bytes:
    try:
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError as problem:
        raise ConnectionError("the connection was closed") from problem
