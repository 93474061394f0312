"""Bytes to packets. A PUBLISH is read here, every other packet by the codec `mqtt5`.

Of a PUBLISH only topic, payload, QoS and id are wanted. A broker that doesn't check UTF-8 (EMQX, unless told
to) passes on topics and properties that the codec can't read; a message that can't be read could never be
acknowledged and would come again for ever. Here such a topic is one that nobody knows.
"""

from __future__ import annotations

import mqtt5
import msgspec

from pingup.errors import PingupError

_PUBLISH = 3
_NO_ID = b"\0\0"


class Malformed(PingupError):
    """What came is not MQTT 5, or larger than we said it may be."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A PUBLISH that came. A topic that is not UTF-8 has U+FFFD in it.

    `packet_id` is as on the wire, two bytes, and empty with QoS 0.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    packet_id: bytes = b""


class Packets:
    """Cuts what comes from a broker into packets."""

    def __init__(self, max_packet: int) -> None:
        """`max_packet` is in bytes."""
        self._max_packet = max_packet
        self._buffer = b""
        self._start = 0

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        self._buffer = self._buffer[self._start :] + data if self._start < len(self._buffer) else data
        self._start = 0

    def take_messages(self) -> list[Message]:
        """The PUBLISHes that come next, as many as are complete.

        Raises:
            Malformed: the very next packet is none, or too large; nothing of it is waited for.
        """
        messages: list[Message] = []
        buffer = self._buffer
        try:
            while self._start < len(buffer) and buffer[self._start] >> 4 == _PUBLISH:
                body, end = self._cut()
                if end > len(buffer):
                    break
                messages.append(_read_publish(buffer[self._start], buffer, body, end))
                self._start = end
        except Malformed:
            # What came before it is taken first; it is still there then.
            if not messages:
                raise
        return messages

    def take_other(self) -> mqtt5.Packet | None:
        """The next packet, which is no PUBLISH; None while it is not complete.

        Raises:
            Malformed: it is none, or too large; nothing of it is waited for.
        """
        start = self._start
        _, end = self._cut()
        if end > len(self._buffer):
            return None
        self._start = end
        return _read_other(memoryview(self._buffer)[start:end])

    def _cut(self) -> tuple[int, int]:
        """Where the next packet's body begins and where it ends: beyond the buffer until it is complete."""
        buffer, start = self._buffer, self._start
        if start + 2 < len(buffer) and buffer[start + 2] < 0x80:
            # Nearly every length has one byte or two.
            size, body = buffer[start + 1], start + 2
            if size > 0x7F:
                size, body = size & 0x7F | buffer[body] << 7, body + 1
        else:
            sized = _size(buffer, start + 1)
            if sized is None:
                return start, len(buffer) + 1
            size, body = sized
        end = body + size
        if end - start > self._max_packet:
            raise Malformed(f"a packet of {end - start:,} bytes, {self._max_packet:,} are allowed")
        return body, end


def _size(buffer: bytes, position: int) -> tuple[int, int] | None:
    """A variable byte integer (section 1.5.5) and where it ends; None while it is not complete."""
    size = 0
    for shift in (0, 7, 14, 21):
        if position >= len(buffer):
            return None
        byte = buffer[position]
        position += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return size, position
    raise Malformed("a length of more than four bytes")


def _read_publish(first: int, buffer: bytes, body: int, end: int) -> Message:
    """Section 3.3: the topic, with QoS above 0 a packet id, properties, and the rest is the payload."""
    qos = first >> 1 & 3
    topic = body + 2
    if topic > end:
        raise Malformed("a PUBLISH that is too short")
    middle = topic + (buffer[body] << 8 | buffer[body + 1])
    properties = middle + 2 if qos else middle
    if properties >= end:
        raise Malformed("a PUBLISH that is too short")
    size = buffer[properties]
    payload = properties + 1 + size
    if size > 0x7F:
        payload = sum(_size(buffer, properties) or (end, end))
    packet_id = buffer[middle:properties]
    if payload > end or qos > 1 or packet_id == _NO_ID:
        raise Malformed(
            "a PUBLISH with properties beyond its end, without an id, or with a QoS not asked for"
        )
    name = buffer[topic:middle].decode("utf-8", "replace")
    return Message(name, buffer[payload:end], qos, first & 1 == 1, packet_id)


def _read_other(packet: memoryview) -> mqtt5.Packet:
    try:
        return mqtt5.read(packet)[0]
    except (ValueError, IndexError) as problem:
        raise Malformed(str(problem)) from problem
