"""MQTT 3.1.1 on the wire: bytes to packets, strictly. Who may do what is none of its business.

amqtt's codec awaits its reader several times a field, which is most of the cost of a PUBLISH, and takes what
is wrong with a packet for something else (invalid UTF-8 for the text of its `repr`). So PUBLISH is read here
in one go, and what amqtt has read of the rarer packets is written again and compared with what came.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, NamedTuple

import msgspec
from amqtt.adapters import BufferReader
from amqtt.errors import AMQTTError, MQTTError, NoDataError
from amqtt.mqtt import packet_class
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.packet import (
    CONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    MQTTFixedHeader,
    MQTTPacket,
)
from amqtt.mqtt.publish import PublishPacket

from pingup.access import is_topic
from pingup.errors import PingupError

CHUNK = 64 * 1024

_FLAGS = {PUBREL: 2, SUBSCRIBE: 2, UNSUBSCRIBE: 2}
_ANSWER = struct.Struct(">BBH")


class Violation(PingupError):
    """The peer breaks the protocol or a limit: its connection is closed."""


class Frame(NamedTuple):
    """One packet: its type and flags (the halves of its first byte) and what follows its length."""

    kind: int
    flags: int
    body: bytes


class Publish(msgspec.Struct, frozen=True):
    """A PUBLISH packet that came in. `packet_id` is 0 with QoS 0."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    packet_id: int = 0


class Frames:
    """Cuts what comes from a peer into packets."""

    def __init__(self, stream: asyncio.StreamReader, *, publish_bytes: int, other_bytes: int) -> None:
        """How many bytes a PUBLISH and any other packet may have after their length."""
        self._stream = stream
        self._publish_bytes = publish_bytes
        self._other_bytes = other_bytes
        self._buffer = b""
        self._start = 0

    async def more(self) -> bool:
        """Wait for more bytes; False when there will be none."""
        chunk = await self._stream.read(CHUNK)
        self._buffer = self._buffer[self._start :] + chunk
        self._start = 0
        return bool(chunk)

    def take(self) -> Frame | None:
        """The next packet, None when it is not complete yet.

        Raises:
            Violation: its length is malformed, or over the limit; nothing of it is waited for.
        """
        buffer, position = self._buffer, self._start + 1
        length = 0
        for shift in (0, 7, 14, 21):
            if position >= len(buffer):
                return None
            byte = buffer[position]
            position += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        else:
            raise Violation("a packet's length is malformed")
        first = buffer[self._start]
        limit = self._publish_bytes if first >> 4 == PUBLISH else self._other_bytes
        if length > limit:
            raise Violation(f"a packet of {length} bytes is over the limit of {limit}")
        end = position + length
        if end > len(buffer):
            return None
        self._start = end
        return Frame(first >> 4, first & 0x0F, buffer[position:end])

    async def first(self) -> Frame:
        """The packet that opens a connection.

        Raises:
            Violation: it is no CONNECT, or too long; or the peer went away before it was complete.
        """
        while await self.more():
            if self._buffer[0] != CONNECT << 4:
                raise Violation("the first packet is no CONNECT")
            frame = self.take()
            if frame is not None:
                return frame
        raise Violation("the peer went away without a CONNECT")


def read_publish(frame: Frame) -> Publish:
    """A frame as PUBLISH.

    Raises:
        Violation: QoS 3, no packet id, a topic that is empty, no UTF-8, or has wildcards.
    """
    flags, body = frame.flags, frame.body
    qos = flags >> 1 & 3
    start = 2 + int.from_bytes(body[:2], "big")
    end = start + 2 if qos else start
    if qos == 3 or flags & 0x0E == 0x08 or len(body) < max(end, 2):
        raise Violation("malformed PUBLISH")
    packet_id = int.from_bytes(body[start:end], "big")
    if qos and not packet_id:
        raise Violation("a PUBLISH with packet id 0")
    try:
        topic = body[2:start].decode()
    except UnicodeDecodeError as problem:
        raise Violation("a topic that is not UTF-8") from problem
    if not is_topic(topic) or "\0" in topic:
        raise Violation("a topic that is none")
    return Publish(topic, body[end:], qos, bool(flags & 1), packet_id)


async def read_packet(frame: Frame) -> MQTTPacket[Any, Any, Any]:
    """Any frame that a client may send, as amqtt's packet.

    Raises:
        Violation: it isn't one, or malformed.
    """
    if frame.flags != _FLAGS.get(frame.kind, 0):
        raise Violation("a packet with wrong flags")
    header = MQTTFixedHeader(frame.kind, frame.flags, len(frame.body))
    sent = header.to_bytes() + frame.body
    try:
        packet = await packet_class(header).from_stream(BufferReader(frame.body), fixed_header=header)
        if isinstance(packet, ConnectPacket) and packet.client_id_is_random:
            packet.client_id = ""
        is_faithful = packet.to_bytes() == sent
    except (AMQTTError, MQTTError, NoDataError, struct.error) as problem:
        raise Violation("a malformed packet") from problem
    if not is_faithful:
        raise Violation("a malformed packet")
    return packet


def publish_bytes(topic: str, payload: bytes, *, retain: bool) -> bytes:
    """A QoS 0 PUBLISH for any number of readers."""
    return PublishPacket.build(topic, payload, None, False, 0, retain).to_bytes()


def puback(packet_id: int) -> bytes:
    return _ANSWER.pack(PUBACK << 4, 2, packet_id)


def pubrec(packet_id: int) -> bytes:
    return _ANSWER.pack(PUBREC << 4, 2, packet_id)


def pubcomp(packet_id: int) -> bytes:
    return _ANSWER.pack(PUBCOMP << 4, 2, packet_id)
