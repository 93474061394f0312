"""Bytes to packets: whatever comes is a packet or a violation, however it is cut into pieces."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket
from hypothesis import given
from hypothesis import strategies as st

from pingup.brokers.framing import Frame, Frames, Publish, Violation, publish_bytes, read_packet, read_publish
from pingup.brokers.greeting import Greeting, Refusal, read_greeting
from tests.contract.mqtt_packets import Will, connect, publish, subscribe, unsubscribe

_text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
_topic = _text.filter(lambda text: text != "" and "+" not in text and "#" not in text)
_id = st.integers(1, 65535)


async def _frames(*pieces: bytes, publish_bytes: int = 10_000, other_bytes: int = 1_000) -> list[Frame]:
    """All frames in what comes in these pieces."""
    stream = asyncio.StreamReader()
    frames = Frames(stream, publish_bytes=publish_bytes, other_bytes=other_bytes)
    found: list[Frame] = []
    for piece in pieces:
        stream.feed_data(piece)
        await frames.more()
        while (frame := frames.take()) is not None:
            found.append(frame)
    return found


@given(_topic, st.binary(max_size=300), st.integers(0, 2), st.booleans(), _id)
async def test_a_publish_is_read_as_it_was_written(
    topic: str, payload: bytes, qos: int, retain: bool, packet_id: int
) -> None:
    sent = publish(topic, payload, packet_id=packet_id, qos=qos, retain=retain)
    (frame,) = await _frames(sent)
    assert read_publish(frame) == Publish(topic, payload, qos, retain, packet_id if qos else 0)


@given(_topic, st.binary(max_size=300), st.booleans())
def test_a_publish_is_written_as_the_protocol_says(topic: str, payload: bytes, retain: bool) -> None:
    assert publish_bytes(topic, payload, retain=retain) == publish(topic, payload, retain=retain)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.lists(st.integers(1, 50), min_size=1))
async def test_packets_are_the_same_however_they_are_cut(payloads: list[bytes], cuts: list[int]) -> None:
    sent = b"".join(publish("a/b", payload) for payload in payloads)
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(sent[start : start + cut])
        start += cut
    frames = await _frames(*(piece for piece in (*pieces, sent[start:]) if piece))
    assert [read_publish(frame).payload for frame in frames] == payloads


@given(st.lists(st.tuples(_text, st.integers(0, 2)), min_size=1, max_size=5), _id)
async def test_a_subscribe_is_read_as_it_was_written(wanted: list[tuple[str, int]], packet_id: int) -> None:
    body = b"".join(subscribe(topic, qos=qos)[4:] for topic, qos in wanted)
    frame = Frame(8, 2, packet_id.to_bytes(2, "big") + body)
    packet = await read_packet(frame)
    assert isinstance(packet, SubscribePacket)
    assert packet.payload is not None
    assert packet.payload.topics == wanted


@given(st.lists(_text, min_size=1, max_size=5), _id)
async def test_an_unsubscribe_is_read_as_it_was_written(topics: list[str], packet_id: int) -> None:
    (frame,) = await _frames(unsubscribe(*topics, packet_id=packet_id))
    packet = await read_packet(frame)
    assert isinstance(packet, UnsubscribePacket)
    assert packet.payload is not None
    assert packet.payload.topics == topics


@given(
    st.one_of(_text.filter(bool)),
    st.one_of(st.none(), _text),
    _text,
    st.booleans(),
    st.integers(0, 65535),
    st.one_of(st.none(), st.builds(Will, _topic, st.binary(max_size=50), st.integers(0, 2), st.booleans())),
)
async def test_a_connect_is_read_as_it_was_written(
    client_id: str, username: str | None, password: str, clean: bool, keep_alive: int, will: Will | None
) -> None:
    shown = None if username is None else password
    (frame,) = await _frames(
        connect(client_id, username, shown, clean=clean, keep_alive=keep_alive, will=will)
    )
    expected = None if will is None else Publish(will.topic, will.payload, will.qos, will.retain)
    assert await read_greeting(frame) == Greeting(client_id, username, shown, clean, keep_alive, expected)


@given(st.integers(0, 15), st.integers(0, 15), st.binary(max_size=200))
async def test_any_packet_is_read_or_a_violation(kind: int, flags: int, body: bytes) -> None:
    frame = Frame(kind, flags, body)
    for read in (read_packet, read_greeting):
        with contextlib.suppress(Violation, Refusal):
            await read(frame)
    with contextlib.suppress(Violation):
        read_publish(frame)


@given(st.sampled_from([8, 10]), st.binary(max_size=100))
async def test_any_request_is_read_or_a_violation(kind: int, body: bytes) -> None:
    with_id = Frame(kind, 2, b"\0\1" + body)
    with contextlib.suppress(Violation):
        await read_packet(with_id)


@given(st.binary(max_size=100))
async def test_any_connect_is_read_or_refused_or_a_violation(body: bytes) -> None:
    with contextlib.suppress(Violation, Refusal):
        await read_greeting(Frame(1, 0, b"\0\x04MQTT\x04" + body))


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5))
async def test_any_bytes_are_cut_or_a_violation(pieces: list[bytes]) -> None:
    with contextlib.suppress(Violation):
        await _frames(*pieces)


@pytest.mark.parametrize("first", [0x30, 0x10, 0xC0])
async def test_a_packet_is_refused_by_its_length_before_it_is_there(first: int) -> None:
    with pytest.raises(Violation, match="over the limit"):
        await _frames(bytes([first]) + b"\xff\xff\x7f")


async def test_a_publish_may_be_longer_than_any_other_packet() -> None:
    (frame,) = await _frames(publish("a", bytes(5_000)))
    assert len(frame.body) == 5_003
    with pytest.raises(Violation):
        await _frames(subscribe("a" * 1_001))
