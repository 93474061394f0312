"""A connection each: as much MQTT 3.1.1 and HTTP/1.1 as a load needs, cheap enough not to be the limit."""

from __future__ import annotations

import asyncio
import re
import struct
import time
from abc import abstractmethod
from collections import deque
from datetime import UTC, datetime, timedelta

from pingup import codec, signing
from pingup.topics import Kind, up
from tests.benchmarks.server import HOST, Device

_CONNACK = b"\x20\x02\x00\x00"
_ACK_SIZE = 4
_MAX_PACKET_ID = 65_535
_HEAD = re.compile(rb"HTTP/1\.1 ([0-9]{3}) .*?\r\nContent-Length: ([0-9]+)\r\n.*?\r\n\r\n", re.DOTALL)


class UnexpectedAnswer(Exception):
    """The server refused something, or ended the connection."""


class Sender(asyncio.Protocol):
    """Sends its packets in order, at most `window` of them unanswered, and looks at every answer.

    `ready` resolves when it may begin, `done` with the last answer; `latencies` are seconds, by answer.
    """

    def __init__(self, device: Device, count: int, window: int) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.latencies: list[float] = []
        self._device = device
        self._packets = self.make_packets(count)
        self._window = window
        self._allowed = 0
        self._next = 0
        self._sent_at: deque[float] = deque()
        self._buffer = b""

    @abstractmethod
    def make_packets(self, count: int) -> list[bytes]:
        """So many packets, each of which is answered once."""

    @abstractmethod
    def take_answers(self, received: bytes) -> tuple[int, int]:
        """How many answers are complete in `received`, and how many bytes they take.

        Raises:
            UnexpectedAnswer: one of them is not what a message should be answered with.
        """

    def allow(self, count: int) -> None:
        """Let the packets up to this number go."""
        self._allowed = min(count, len(self._packets))
        self._send()

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.ready.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            answered, size = self.take_answers(self._buffer)
        except UnexpectedAnswer as problem:
            self._fail(problem)
            return
        self._buffer = self._buffer[size:]
        now = time.perf_counter()
        self.latencies.extend(now - self._sent_at.popleft() for _ in range(answered))
        if len(self.latencies) == len(self._packets) and not self.done.done():
            self.done.set_result(None)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(UnexpectedAnswer(f"the server ended the connection ({exc})"))

    def _send(self) -> None:
        end = min(self._allowed, self._next + self._window - len(self._sent_at))
        if end > self._next:
            self._sent_at.extend([time.perf_counter()] * (end - self._next))
            self._transport.write(b"".join(self._packets[self._next : end]))
            self._next = end

    def _fail(self, problem: UnexpectedAnswer) -> None:
        for future in (self.ready, self.done):
            if not future.done():
                future.set_exception(problem)


class Publisher(Sender):
    """An agent that publishes samples with QoS 1."""

    def make_packets(self, count: int) -> list[bytes]:
        topic = _text(up(self._device.id, Kind.METRICS))
        ids = [struct.pack(">H", number % _MAX_PACKET_ID + 1) for number in range(count)]
        self._expected = b"".join(b"\x40\x02" + packet_id for packet_id in ids)
        return [
            _packet(0x32, topic + packet_id + message)
            for packet_id, message in zip(ids, samples(self._device, count), strict=True)
        ]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        device_id = _text(self._device.id)
        flags = 0xC2  # user name, password, clean session
        head = struct.pack(">H4sBBH", 4, b"MQTT", 4, flags, 60)
        transport.write(_packet(0x10, head + device_id + device_id + _text(self._device.token)))

    def take_answers(self, received: bytes) -> tuple[int, int]:
        if not self.ready.done():
            if received != _CONNACK:
                raise UnexpectedAnswer(f"CONNECT was answered with {received.hex()}")
            self.ready.set_result(None)
            return 0, len(received)
        count = len(received) // _ACK_SIZE
        size = count * _ACK_SIZE
        start = len(self.latencies) * _ACK_SIZE
        if received[:size] != self._expected[start : start + size]:
            raise UnexpectedAnswer("an answer is not the PUBACK whose turn it is")
        return count, size


class Poster(Sender):
    """An agent that posts samples."""

    status = b"201"

    def make_packets(self, count: int) -> list[bytes]:
        head = _head("POST", "/api/v1/metrics", self._device.token)
        return [
            head
            + f"Content-Type: application/json\r\nContent-Length: {len(message)}\r\n\r\n".encode()
            + message
            for message in samples(self._device, count)
        ]

    def take_answers(self, received: bytes) -> tuple[int, int]:
        head = _HEAD.match(received)
        if head is None or len(received) < head.end() + int(head[2]):
            return 0, 0
        if head[1] != self.status:
            raise UnexpectedAnswer(received.decode())
        return 1, head.end() + int(head[2])


class Reader(Poster):
    """An agent that asks for its newest 100 samples."""

    status = b"200"

    def make_packets(self, count: int) -> list[bytes]:
        path = f"/api/v1/metrics/{self._device.id}?limit=100"
        return [_head("GET", path, self._device.token) + b"\r\n"] * count


def samples(device: Device, count: int) -> list[bytes]:
    """Signed metrics messages from now on, a microsecond apart."""
    now = datetime.now(UTC)
    return [_sample(device, now + timedelta(microseconds=number), number) for number in range(count)]


def _sample(device: Device, at: datetime, number: int) -> bytes:
    metrics = {"cpu": number % 1000 / 10, "ram": 43.2, "disk": 71.4, "latency": number % 100}
    body = {"agentId": device.id, "timestamp": at, "metrics": metrics, "status": "online"}
    return signing.sign(codec.encode(body), device.secret)


def _head(method: str, path: str, token: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n".encode()


def _text(text: str) -> bytes:
    """A UTF-8 string as MQTT 3.1.1 has it (section 1.5.3)."""
    encoded = text.encode()
    return struct.pack(">H", len(encoded)) + encoded


def _packet(first: int, body: bytes) -> bytes:
    """A control packet: its first byte, its length in seven bits a byte (section 2.2.3), and the rest."""
    length, size = bytearray(), len(body)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([first]) + bytes(length) + body
