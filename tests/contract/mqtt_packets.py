"""MQTT 3.1.1 packets built and read by hand, so that broken ones can be sent too."""

from __future__ import annotations

import struct
from typing import NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = range(8, 15)


class Packet(NamedTuple):
    kind: int
    flags: int
    body: bytes


class Arrival(NamedTuple):
    """A PUBLISH that came to a client."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int


class Will(NamedTuple):
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def length(size: int) -> bytes:
    digits = bytearray()
    while True:
        size, digit = divmod(size, 128)
        digits.append(digit | (128 if size else 0))
        if not size:
            return bytes(digits)


def packet(first: int, body: bytes = b"") -> bytes:
    return bytes([first]) + length(len(body)) + body


def connect(
    client_id: str | bytes,
    username: str | bytes | None,
    password: str | bytes | None,
    *,
    clean: bool = True,
    keep_alive: int = 60,
    will: Will | None = None,
    level: int = 4,
) -> bytes:
    flags = 2 * clean + 128 * (username is not None) + 64 * (password is not None)
    tail = text(client_id)
    if will is not None:
        flags += 4 + 8 * will.qos + 32 * will.retain
        tail += text(will.topic) + text(will.payload)
    tail += b"".join(text(value) for value in (username, password) if value is not None)
    return packet(0x10, text("MQTT") + struct.pack(">BBH", level, flags, keep_alive) + tail)


def publish(
    topic: str | bytes,
    payload: bytes,
    *,
    packet_id: int = 0,
    qos: int | None = None,
    retain: bool = False,
    dup: bool = False,
) -> bytes:
    """QoS 1 with a packet id, 0 without one, unless said otherwise."""
    level = (1 if packet_id else 0) if qos is None else qos
    number = struct.pack(">H", packet_id) if level else b""
    return packet(0x30 | 8 * dup | 2 * level | retain, text(topic) + number + payload)


def subscribe(*filters: str | bytes, qos: int = 1, packet_id: int = 1) -> bytes:
    body = b"".join(text(one) + bytes([qos]) for one in filters)
    return packet(0x82, struct.pack(">H", packet_id) + body)


def unsubscribe(*filters: str, packet_id: int = 1) -> bytes:
    return packet(0xA2, struct.pack(">H", packet_id) + b"".join(text(one) for one in filters))


def answer(first: int, packet_id: int) -> bytes:
    """PUBACK 0x40, PUBREC 0x50, PUBREL 0x62, PUBCOMP 0x70."""
    return packet(first, struct.pack(">H", packet_id))


def number(received: Packet) -> int:
    """The packet id of an acknowledgement."""
    return int.from_bytes(received.body[:2], "big")


def arrival(received: Packet) -> Arrival:
    assert received.kind == PUBLISH, received
    end = 2 + int.from_bytes(received.body[:2], "big")
    qos = received.flags >> 1 & 3
    start = end + (2 if qos else 0)
    return Arrival(
        received.body[2:end].decode(),
        received.body[start:],
        qos,
        bool(received.flags & 1),
        bool(received.flags & 8),
        int.from_bytes(received.body[end:start], "big"),
    )
