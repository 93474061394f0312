"""Clients that break the rules of MQTT, fall silent, or come too many: the embedded broker goes on."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pingup.brokers.embedded import Embedded
from pingup.brokers.limits import Limits
from pingup.clock import SystemClock
from pingup.errors import Unusable
from tests.contract.broker_rig import (
    PATIENCE,
    BrittleKeyring,
    CountedRejects,
    HeldIngest,
    Rig,
    edge,
    metrics,
    open_rig,
    status,
)
from tests.contract.mqtt_packets import PUBACK, Will, answer, connect, packet, publish, subscribe, text

ENDLESS = b"\xff\xff\xff\xff\x7f"


async def _works(rig: Rig) -> bool:
    agent = await rig.agent("well-behaved")
    agent.send(publish(metrics("well-behaved"), b"x", packet_id=1))
    return (await agent.expect(PUBACK)).kind == PUBACK


# --- the first packet ------------------------------------------------------------------------------


async def test_a_connection_without_a_connect_is_closed_in_time() -> None:
    async with open_rig(Limits(connect_within=0.1)) as rig:
        silent = await rig.peer()
        slow = await rig.peer()
        slow.send(b"\x10\x20\x00")
        assert await silent.is_closed()
        assert await slow.is_closed()


@pytest.mark.parametrize(
    "first",
    [
        publish(metrics("A"), b"x", packet_id=1),
        packet(0xC0),
        packet(0xE0),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\x10\xff\xff\xff\x7f",
        b"\x10" + ENDLESS,
        b"\x10\x80\x80\x01" + bytes(100),
        b"\x11" + connect("A", "A", "token-of-A")[1:],
        packet(0x10),
        packet(0x10, text("MQTT")),
        packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c"),
        packet(0x10, text("AMQP") + b"\x04\x02\x00\x3c" + text("A")),
        packet(0x10, text("MQTT") + b"\x04\xc3\x00\x3c" + text("A") + text("A") + text("token-of-A")),
        packet(0x10, text("MQTT") + b"\x04\xe2\x00\x3c" + text("A") + text("A") + text("token-of-A")),
        packet(0x10, text("MQTT") + b"\x04\xc2\x00\x3c" + text("A") + text("A")),
        connect("A", "A", "token-of-A")[:-1],
        connect(b"\xff", "A", "token-of-A"),
        connect(b"\xff" * 9000, "A", "token-of-A"),
        connect("A\0", "A", "token-of-A"),
        connect("A", b"\xc3\x28", "token-of-A"),
        connect("A", "A", "token-of-A", will=Will("", b"x")),
        connect("A", "A", "token-of-A", will=Will("a/#", b"x")),
        connect("A", "A", "token-of-A", will=Will(status("A"), b"x", qos=3)),
        connect("A", "A", "token-of-A", will=Will(status("A"), bytes(20_000))),
    ],
)
async def test_a_first_packet_that_is_no_connect_closes_the_connection(rig: Rig, first: bytes) -> None:
    rig.register("A")
    peer = await rig.peer()
    peer.send(first)
    if first.startswith(b"\x10") and len(first) > 2:
        peer.writer.write_eof()
    assert await peer.is_closed()
    assert await _works(rig)


async def test_a_packet_may_come_in_pieces_and_many_at_once(rig: Rig) -> None:
    token = rig.register("A")
    peer = await rig.peer()
    for byte in connect("A", "A", token):
        peer.send(bytes([byte]))
        await asyncio.sleep(0)
    await peer.expect(2)
    peer.send(*(publish(metrics("A"), bytes(100), packet_id=number) for number in range(1, 101)))
    for _ in range(100):
        await peer.expect(PUBACK)


# --- what comes after ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(connect("A", "A", "token-of-A"), id="a second CONNECT"),
        pytest.param(publish("pingup/v1/up/A/+", b"x", packet_id=1), id="a topic with a wildcard"),
        pytest.param(publish("pingup/v1/up/#", b"x"), id="a topic with the other wildcard"),
        pytest.param(publish("", b"x", packet_id=1), id="an empty topic"),
        pytest.param(publish(b"pingup/v1/up/A/\xff", b"x", packet_id=1), id="a topic that is no UTF-8"),
        pytest.param(publish("pingup/v1/up/A/\0", b"x", packet_id=1), id="a topic with U+0000"),
        pytest.param(publish(b"\xed\xa0\x80", b"x", packet_id=1), id="a topic with a surrogate"),
        pytest.param(publish(metrics("A"), b"x", packet_id=1, qos=3), id="QoS 3"),
        pytest.param(publish(metrics("A"), b"x", dup=True), id="DUP with QoS 0"),
        pytest.param(publish(metrics("A"), b"x", packet_id=0, qos=1), id="packet id 0"),
        pytest.param(packet(0x30), id="a PUBLISH of nothing"),
        pytest.param(packet(0x32, text("abc")), id="a PUBLISH without its packet id"),
        pytest.param(packet(0x30, b"\x00\xff" + b"abc"), id="a topic longer than its packet"),
        pytest.param(packet(0x00), id="reserved type 0"),
        pytest.param(packet(0xF0), id="reserved type 15"),
        pytest.param(packet(0x20, b"\0\0"), id="a CONNACK"),
        pytest.param(packet(0xD0), id="a PINGRESP"),
        pytest.param(answer(0x50, 1), id="a PUBREC for nothing that was sent"),
        pytest.param(b"\xc0" + ENDLESS, id="a malformed length"),
        pytest.param(b"\x82\xff\xff\x7f", id="a huge SUBSCRIBE"),
        pytest.param(packet(0xC0, b"x"), id="a PINGREQ with a body"),
        pytest.param(packet(0xC1), id="a PINGREQ with flags"),
        pytest.param(packet(0x40, b"\0"), id="half a PUBACK"),
        pytest.param(packet(0x60, b"\0\1"), id="a PUBREL with wrong flags"),
        pytest.param(subscribe(), id="a SUBSCRIBE without filters"),
        pytest.param(subscribe("a", packet_id=0), id="a SUBSCRIBE with packet id 0"),
        pytest.param(subscribe("a", qos=3), id="a SUBSCRIBE for QoS 3"),
        pytest.param(subscribe(b"\xff"), id="a filter that is no UTF-8"),
        pytest.param(subscribe("a\0"), id="a filter with U+0000"),
        pytest.param(b"\x80" + subscribe("a")[1:], id="a SUBSCRIBE with wrong flags"),
        pytest.param(packet(0x82, b"\0\1" + text("a")), id="a filter without its QoS"),
        pytest.param(packet(0xA2, b"\0\1"), id="an UNSUBSCRIBE without filters"),
    ],
)
async def test_a_broken_rule_closes_that_connection_and_no_other(rig: Rig, broken: bytes) -> None:
    agent = await rig.agent("A")
    other = await rig.agent("B")
    agent.send(broken)
    assert await agent.is_closed()
    assert await other.is_quiet()
    assert not rig.ingest.taken


async def test_a_broken_rule_takes_nothing_from_what_came_before_it(rig: Rig) -> None:
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"x", packet_id=1), packet(0xF0))
    assert await agent.is_closed()
    assert len(rig.ingest.taken) == 1


async def test_nothing_counts_after_a_goodbye(rig: Rig) -> None:
    agent = await rig.agent("A")
    agent.send(packet(0xE0), publish(metrics("A"), b"x", packet_id=1))
    assert await agent.is_closed()
    assert not rig.ingest.taken


async def test_a_bug_that_a_message_finds_closes_its_connection_and_is_logged(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await rig.agent("A")
    other = await rig.agent("B")
    rig.ingest.is_broken = True
    agent.send(publish(metrics("A"), b"the payload", packet_id=1))
    assert await agent.is_closed()
    assert await other.is_quiet()
    assert "the ingest is broken" in caplog.text
    assert "the payload" not in caplog.text


# --- silence ---------------------------------------------------------------------------------------


async def test_a_half_open_client_is_closed_and_its_will_is_out_within_one_and_a_half_keep_alives(
    rig: Rig,
) -> None:
    loop = asyncio.get_running_loop()
    agent = await rig.agent("A", keep_alive=1, will=Will(status("A"), b"gone"))
    since = loop.time()
    agent.send(packet(0xC0))
    await agent.read()
    async with asyncio.timeout(1.5 + 5):
        await rig.ingest.took(1)
    assert loop.time() - since >= 1
    assert rig.ingest.taken[0].payload == b"gone"
    assert await agent.is_closed()


async def test_a_client_that_speaks_in_time_stays(rig: Rig) -> None:
    loop = asyncio.get_running_loop()
    agent = await rig.agent("A", keep_alive=1)
    end = loop.time() + 2
    while loop.time() < end:
        assert await agent.is_quiet()
        await asyncio.sleep(0.01)


async def test_a_client_is_not_called_silent_while_the_server_does_not_read_it(rig: Rig) -> None:
    agent = await rig.agent("A", keep_alive=1, will=Will(status("A"), b"gone"))
    quiet = await rig.agent("B", keep_alive=1)
    rig.ingest.space.clear()
    agent.send(publish(metrics("A"), b"x", packet_id=1))
    assert await quiet.is_closed()
    rig.ingest.space.set()
    await agent.expect(PUBACK)
    assert await agent.is_quiet()


# --- coming and going ------------------------------------------------------------------------------


async def test_a_port_in_use_is_one_clear_line(rig: Rig) -> None:
    clock = SystemClock()
    second = Embedded(host="127.0.0.1", port=rig.broker.port, keyring=BrittleKeyring(clock), clock=clock)
    with pytest.raises(Unusable) as problem:
        async with second.open(edge(HeldIngest(), CountedRejects())):
            pass
    assert str(problem.value) == (
        f"MQTT: cannot listen on 127.0.0.1:{rig.broker.port}: address already in use"
    )


async def test_a_host_that_is_none_is_one_clear_line() -> None:
    clock = SystemClock()
    broker = Embedded(host="no.such.host.invalid", port=0, keyring=BrittleKeyring(clock), clock=clock)
    with pytest.raises(Unusable, match=r"cannot listen on no\.such\.host\.invalid:0"):
        async with broker.open(edge(HeldIngest(), CountedRejects())):
            pass


async def test_a_closing_broker_closes_every_connection_and_frees_its_port() -> None:
    async with asyncio.timeout(PATIENCE), open_rig(Limits(close_within=60)) as rig:
        unknown = await rig.peer()
        agent = await rig.agent("A", will=Will(status("A"), b"gone"))
        port = rig.broker.port
    assert await agent.is_closed()
    assert await unknown.is_closed()
    assert not rig.ingest.taken
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_a_closing_broker_does_not_wait_for_ever_for_a_store_that_is_down() -> None:
    async with open_rig(Limits(close_within=0.05)) as rig:
        rig.ingest.is_instant = False
        agent = await rig.agent("A")
        agent.send(publish(metrics("A"), b"x", packet_id=1))
        await rig.ingest.took(1)
        held, rig.ingest.verdicts = rig.ingest.verdicts, []
    assert await agent.is_closed()
    assert not held[0].cancelled()
