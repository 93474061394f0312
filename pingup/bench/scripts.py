"""What each connection of a load will say, byte for byte, and how it knows the answers.

As much of MQTT 3.1.1 and HTTP/1.1 as a load needs.
"""

from __future__ import annotations

import re
import struct
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator

from pingup.bench.load import Kind, Load
from pingup.bench.messages import Author, Device, device
from pingup.bench.server import HOST, Unmeasured
from pingup.clock import SystemClock

MAX_PACKET_ID = 65_535
_PUBLISH_QOS_1 = b"\x32"
_CONNACK = b"\x20\x02\x00\x00"
_PUBACK_SIZE = 4
_HEAD = re.compile(rb"HTTP/1\.1 ([0-9]{3}) .*?\r\nContent-Length: ([0-9]+)\r\n.*?\r\n\r\n", re.DOTALL)
_CREATED = b'"status":201'


class Script(ABC):
    """A connection's part: `greeting`, and when that is answered with `welcome`, `data`.

    `ends` is where in `data` each message ends, `moments` the moment of its newest sample in microseconds.
    """

    greeting = b""
    welcome = b""

    def __init__(self) -> None:
        self.data = b""
        self.ends = array("Q")
        self.moments = array("Q")

    @abstractmethod
    def count_answers(self, received: bytes, answered: int) -> tuple[int, int]:
        """How many answers are complete in `received`, after `answered` others, and how many bytes they take.

        Raises:
            Unmeasured: one is not what a message should be answered with.
        """

    def _fill(self, messages: Iterator[tuple[bytes, int]]) -> None:
        parts = []
        end = 0
        for message, moment in messages:
            parts.append(message)
            end += len(message)
            self.ends.append(end)
            self.moments.append(moment)
        self.data = b"".join(parts)


class Publishing(Script):
    """Publishes with QoS 1; each PUBACK must be the one whose turn it is."""

    welcome = _CONNACK
    # Twice around, so that any stretch of it is one slice.
    _pubacks = b"".join(b"\x40\x02" + struct.pack(">H", number + 1) for number in range(MAX_PACKET_ID)) * 2

    def __init__(self, who: Device, messages: Iterator[tuple[bytes, bytes, int]]) -> None:
        """`messages` are topic, payload and moment of each."""
        super().__init__()
        self.greeting = connect(who.id, who.id, who.token)
        self._fill(
            (publish(topic, payload, number % MAX_PACKET_ID + 1), moment)
            for number, (topic, payload, moment) in enumerate(messages)
        )

    def count_answers(self, received: bytes, answered: int) -> tuple[int, int]:
        found = 0
        while True:
            begin = answered % MAX_PACKET_ID * _PUBACK_SIZE
            rest = memoryview(received)[found * _PUBACK_SIZE :]
            size = min(len(rest), MAX_PACKET_ID * _PUBACK_SIZE) // _PUBACK_SIZE * _PUBACK_SIZE
            if not size:
                return found, found * _PUBACK_SIZE
            if rest[:size] != memoryview(self._pubacks)[begin : begin + size]:
                raise Unmeasured("a publish was not answered with the PUBACK whose turn it is")
            found += size // _PUBACK_SIZE
            answered += size // _PUBACK_SIZE


class Calling(Script):
    """Calls REST; each answer must have the status, and so many lines that were taken."""

    def __init__(self, calls: Iterator[tuple[bytes, int]], status: bytes, lines: int = 0) -> None:
        super().__init__()
        self._status = status
        self._lines = lines
        self._fill(calls)

    def count_answers(self, received: bytes, answered: int) -> tuple[int, int]:
        head = _HEAD.match(received)
        if head is None or len(received) < head.end() + int(head[2]):
            return 0, 0
        size = head.end() + int(head[2])
        if head[1] != self._status or (self._lines and received.count(_CREATED) != self._lines):
            raise Unmeasured(f"a call was answered with {received[:1000].decode()}")
        return 1, size


def scripts(load: Load) -> list[Script]:
    """One for each connection of the load."""
    moments = _Moments(load)
    return [_script(load, moments, connection) for connection in range(load.connections)]


class _Moments:
    """When each sample of a load was taken: no two at the same time, and those of an agent in order."""

    def __init__(self, load: Load) -> None:
        now = round(SystemClock().now().timestamp() * 1e6)
        self._agents = load.agents
        self._stride = round(load.spacing * 1e6) or load.agents
        is_past = not load.spacing
        self._start = now - load.messages * load.samples if is_past else now

    def of(self, agent: int, index: int) -> int:
        """Microseconds since the epoch."""
        return self._start + index * self._stride + agent * self._stride // self._agents


def _script(load: Load, moments: _Moments, connection: int) -> Script:
    mine = range(connection, load.agents, load.connections)
    devices = [device(load.first_agent + agent) for agent in mine]
    match load.kind:
        case Kind.MQTT:
            authors = [Author(who, numbered=load.numbered, first_seq=load.first_seq) for who in devices]
            return Publishing(devices[0], _published(load, moments, mine, authors))
        case Kind.POST:
            return Calling(_posted(load, moments, mine, devices), b"201")
        case Kind.NDJSON:
            return Calling(_lines(load, moments, mine, devices), b"207", load.samples)
        case Kind.REGISTER:
            return Calling(_registrations(load, devices), b"201")
        case Kind.GET:
            return Calling(_reads(load, devices), b"200")


def _published(
    load: Load, moments: _Moments, agents: range, authors: list[Author]
) -> Iterator[tuple[bytes, bytes, int]]:
    """Round by round, so that each agent's messages are in the order of time and so are those of all."""
    for number in range(load.each):
        for agent, author in zip(agents, authors, strict=True):
            taken = [moments.of(agent, number * load.samples + index) for index in range(load.samples)]
            payload = author.sample(taken[0]) if load.samples == 1 else author.batch(taken)
            yield author.topic, payload, taken[-1]


def _posted(
    load: Load, moments: _Moments, agents: range, devices: list[Device]
) -> Iterator[tuple[bytes, int]]:
    authors = [Author(who) for who in devices]
    for number in range(load.each):
        for agent, who, author in zip(agents, devices, authors, strict=True):
            moment = moments.of(agent, number)
            yield post("/api/v1/metrics", who.token, author.sample(moment)), moment


def _lines(
    load: Load, moments: _Moments, agents: range, devices: list[Device]
) -> Iterator[tuple[bytes, int]]:
    authors = [Author(who) for who in devices]
    for number in range(load.each):
        for agent, who, author in zip(agents, devices, authors, strict=True):
            taken = [moments.of(agent, number * load.samples + index) for index in range(load.samples)]
            body = b"\n".join(map(author.sample, taken))
            yield post("/api/v1/metrics", who.token, body, "application/x-ndjson"), taken[-1]


def _reads(load: Load, devices: list[Device]) -> Iterator[tuple[bytes, int]]:
    calls = [get(load.path.format(agent=who.id), who.token) for who in devices]
    return ((call, 0) for _ in range(load.each) for call in calls)


def _registrations(load: Load, devices: list[Device]) -> Iterator[tuple[bytes, int]]:
    for who in devices:
        body = f'{{"id":"{who.id}","secret":"{who.secret}"}}'.encode()
        yield post("/api/v1/agents", load.token, body), 0


# --- HTTP/1.1 --------------------------------------------------------------------------------------


def get(path: str, token: str) -> bytes:
    """A call."""
    return _call("GET", path, token) + b"\r\n"


def post(path: str, token: str, body: bytes, kind: str = "application/json") -> bytes:
    """A call with a body."""
    head = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return _call("POST", path, token) + head.encode() + body


def _call(method: str, path: str, token: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n".encode()


# --- MQTT 3.1.1 ------------------------------------------------------------------------------------


def connect(client_id: str, user: str, password: str) -> bytes:
    """A CONNECT with a clean session, and without a keep-alive."""
    flags = 0xC2  # user name, password, clean session
    head = struct.pack(">H4sBBH", 4, b"MQTT", 4, flags, 0)
    return packet(b"\x10", head + text(client_id) + text(user) + text(password))


def subscribe(topic_filter: str) -> bytes:
    """A SUBSCRIBE with QoS 0."""
    return packet(b"\x82", b"\x00\x01" + text(topic_filter) + b"\x00")


def publish(topic: bytes, payload: bytes, packet_id: int) -> bytes:
    """A PUBLISH with QoS 1."""
    size = len(topic) + len(payload) + 4
    return b"%c%b%b%b%b%b" % (
        _PUBLISH_QOS_1,
        length(size),
        struct.pack(">H", len(topic)),
        topic,
        struct.pack(">H", packet_id),
        payload,
    )


def text(string: str) -> bytes:
    """A UTF-8 string as MQTT 3.1.1 has it (section 1.5.3)."""
    encoded = string.encode()
    return struct.pack(">H", len(encoded)) + encoded


def packet(first: bytes, body: bytes) -> bytes:
    """A control packet: its first byte, its length, and the rest."""
    return first + length(len(body)) + body


def length(size: int) -> bytes:
    """A size in seven bits a byte (MQTT 3.1.1, section 2.2.3)."""
    encoded = bytearray()
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)
