"""Bytes become packets however they are cut, and what is no packet is never waited for."""

from __future__ import annotations

from contextlib import suppress

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingup.brokers.session.packets import Malformed, Message, Packets

LIMIT = 1000

topics = st.text(st.characters(exclude_characters="#+\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
publishes = st.builds(
    lambda topic, payload, number, expiry, properties: mqtt5.PublishPacket(
        topic,
        payload,
        qos=mqtt5.QoS(1 if number else 0),
        packet_id=number,
        message_expiry_interval=expiry,
        user_properties=properties,
    ),
    topics,
    st.binary(max_size=300),
    st.none() | st.integers(1, 65535),
    st.none() | st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.text("ab", max_size=90), st.text("cd", max_size=90)), max_size=3),
)
others = st.builds(mqtt5.PubAckPacket, st.integers(1, 65535)) | st.just(mqtt5.PingRespPacket())


def read_all(packets: Packets) -> list[Message | mqtt5.Packet]:
    found: list[Message | mqtt5.Packet] = []
    while True:
        if messages := packets.take_messages():
            found += messages
        elif (packet := packets.take_other()) is not None:
            found.append(packet)
        else:
            return found


def text(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + raw


@given(st.lists(publishes | others, max_size=5), st.lists(st.integers(1, 50), max_size=30))
def test_packets_come_out_as_they_were_however_they_are_cut(
    sent: list[mqtt5.Packet], cuts: list[int]
) -> None:
    stream = b"".join(packet.write() for packet in sent)
    packets, found = Packets(LIMIT), []
    for size in (*cuts, len(stream)):
        packets.feed(stream[:size])
        stream = stream[size:]
        found += read_all(packets)
    assert len(found) == len(sent)
    for was, now in zip(sent, found, strict=True):
        if isinstance(was, mqtt5.PublishPacket):
            packet_id = b"" if was.packet_id is None else was.packet_id.to_bytes(2, "big")
            assert now == Message(was.topic, was.payload, int(was.qos), was.retain, packet_id)
        else:
            assert not isinstance(now, Message)
            assert now.write() == was.write()


@given(st.binary(max_size=200))
def test_any_bytes_are_packets_incomplete_or_malformed(raw: bytes) -> None:
    packets = Packets(LIMIT)
    packets.feed(raw)
    with suppress(Malformed):
        read_all(packets)


def test_a_topic_that_is_not_utf_8_can_still_be_acknowledged() -> None:
    """The codec panics at it; a broker that doesn't check would bring the message again for ever."""
    body = text(b"pingup/v1/up/A/\xff") + b"\x00\x07" + b"\x00" + b"payload"
    packets = Packets(LIMIT)
    packets.feed(bytes([0x32, len(body)]) + body)
    assert read_all(packets) == [Message("pingup/v1/up/A/�", b"payload", 1, False, b"\0\7")]


def test_properties_that_nobody_asked_for_are_not_looked_at() -> None:
    properties = b"\x26" + text(b"\xff") + text(b"\xfe")  # a user property that is not UTF-8
    body = text(b"a") + b"\x00\x07" + bytes([len(properties)]) + properties + b"payload"
    packets = Packets(LIMIT)
    packets.feed(bytes([0x32, len(body)]) + body)
    assert read_all(packets) == [Message("a", b"payload", 1, False, b"\0\7")]


@pytest.mark.parametrize(
    "raw",
    [
        b"\x30\xff\xff\xff\xff",  # a length of five bytes
        b"\x30\xff\x7f",  # larger than we said it may be, and not yet complete
        b"\x34\x07\x00\x01a\x00\x07\x00x",  # QoS 2
        b"\x36\x07\x00\x01a\x00\x07\x00x",  # QoS 3
        b"\x32\x07\x00\x01a\x00\x00\x00x",  # packet id 0
        b"\x32\x03\x00\x01a",  # no packet id
        b"\x30\x03\x00\x01a",  # no properties
        b"\x30\x04\x00\x09a\x00",  # a topic beyond the end
        b"\x30\x05\x00\x01a\x05x",  # properties beyond the end
        b"\x30\x05\x00\x01a\x80\x80",  # properties whose length has no end
        b"\x30\x01\x00",  # next to nothing
        b"\x30\x00",  # nothing
        b"\x20\x00",  # a CONNACK of nothing
        b"\x00\x00",  # type 0
    ],
)
def test_what_is_malformed_is_told_as_soon_as_it_is_there(raw: bytes) -> None:
    packets = Packets(LIMIT)
    packets.feed(raw)
    with pytest.raises(Malformed):
        read_all(packets)


@pytest.mark.parametrize("after", [b"\x34\x07\x00\x01a\x00\x07\x00x", b"\x00\x00"])
def test_what_came_before_something_malformed_is_taken(after: bytes) -> None:
    packets = Packets(LIMIT)
    packets.feed(b"\x30\x04\x00\x01a\x00" + after)
    assert packets.take_messages() == [Message("a", b"", 0, False)]
    with pytest.raises(Malformed):
        read_all(packets)
