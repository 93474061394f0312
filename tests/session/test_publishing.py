"""What we publish and subscribe, within what the broker has agreed to."""

from __future__ import annotations

import asyncio

import mqtt5
import pytest

from pingup.brokers.session import Subscription
from pingup.brokers.session.options import MIB
from pingup.errors import Unavailable
from tests.session.peer import PATIENCE, ScriptedBroker, connected

PubAck = mqtt5.PubAckReasonCode


@pytest.mark.parametrize(
    ("code", "is_taken"), [(PubAck.SUCCESS, True), (PubAck.NO_MATCHING_SUBSCRIBERS, False)]
)
async def test_a_publish_tells_whether_anybody_gets_it(
    broker: ScriptedBroker, code: PubAck, is_taken: bool
) -> None:
    async with connected(broker) as (connection, peer):
        publishing = asyncio.create_task(connection.publish("a/b", b"x", retain=True, expires_in=60))
        packet = await peer.expect(mqtt5.PublishPacket)
        assert (packet.topic, packet.payload, packet.retain) == ("a/b", b"x", True)
        assert (packet.qos, packet.message_expiry_interval) == (mqtt5.QoS.AT_LEAST_ONCE, 60)
        assert packet.packet_id
        peer.send(mqtt5.PubAckPacket(packet.packet_id, reason_code=code))
        assert await publishing is is_taken


async def test_a_publish_that_is_refused_says_why(broker: ScriptedBroker) -> None:
    async with connected(broker) as (connection, peer):
        publishing = asyncio.create_task(connection.publish("a/b", b"x"))
        packet = await peer.expect(mqtt5.PublishPacket)
        assert packet.packet_id
        peer.send(
            mqtt5.PubAckPacket(packet.packet_id, reason_code=PubAck.NOT_AUTHORIZED, reason_str="go away")
        )
        with pytest.raises(Unavailable, match=r"a/b: not authorised \(the broker says 'go away'\)"):
            await publishing


async def test_no_more_is_in_flight_than_the_broker_takes(broker: ScriptedBroker) -> None:
    async with connected(broker, terms={"receive_max": 2}) as (connection, peer):
        publishing = [asyncio.create_task(connection.publish(f"t/{n}", b"")) for n in range(3)]
        first, _ = await peer.expect(mqtt5.PublishPacket), await peer.expect(mqtt5.PublishPacket)
        connection.send("between", b"")
        assert (await peer.expect(mqtt5.PublishPacket)).topic == "between"
        assert first.packet_id
        peer.send(mqtt5.PubAckPacket(first.packet_id))
        third = await peer.expect(mqtt5.PublishPacket)
        assert third.topic == "t/2"
        assert await publishing[0]
        await peer.close()
        for task in publishing[1:]:
            with pytest.raises(Unavailable, match="closed the connection"):
                await task


async def test_an_id_whose_asker_has_gone_stays_in_use_until_it_is_answered(broker: ScriptedBroker) -> None:
    async with connected(broker, terms={"receive_max": 1}) as (connection, peer):
        given_up = asyncio.create_task(connection.publish("one", b""))
        packet = await peer.expect(mqtt5.PublishPacket)
        given_up.cancel()
        waiting = asyncio.create_task(connection.publish("two", b""))
        connection.send("between", b"")
        assert (await peer.expect(mqtt5.PublishPacket)).topic == "between"
        assert packet.packet_id
        peer.send(mqtt5.PubAckPacket(packet.packet_id))
        second = await peer.expect(mqtt5.PublishPacket)
        assert second.topic == "two"
        assert second.packet_id
        peer.send(mqtt5.PubAckPacket(second.packet_id))
        assert await waiting


async def test_a_message_larger_than_the_broker_takes_is_not_sent(broker: ScriptedBroker) -> None:
    async with connected(broker, terms={"max_packet_size": 100}) as (connection, peer):
        with pytest.raises(Unavailable, match="the broker takes 100 bytes"):
            await connection.publish("a", bytes(100))
        assert not connection.send("a", bytes(100))
        assert connection.dropped == 1
        assert connection.send("a", bytes(50))
        assert len((await peer.expect(mqtt5.PublishPacket)).payload) == 50


async def test_a_broker_without_qos_1_gets_no_qos_1(broker: ScriptedBroker) -> None:
    async with connected(broker, terms={"max_qos": mqtt5.QoS.AT_MOST_ONCE}) as (connection, _):
        with pytest.raises(Unavailable, match="QoS 0 only"):
            await connection.publish("a", b"")


async def test_a_broker_that_retains_nothing_is_not_asked_to(broker: ScriptedBroker) -> None:
    async with connected(broker, terms={"retain_available": False}) as (connection, peer):
        connection.send("a", b"", retain=True)
        assert not (await peer.expect(mqtt5.PublishPacket)).retain


async def test_a_broker_that_does_not_read_loses_qos_0_and_nothing_piles_up(broker: ScriptedBroker) -> None:
    async with connected(broker, write_buffer=4096) as (connection, peer):
        transport = peer.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        assert not all(connection.send("a", bytes(60_000)) for _ in range(1000))
        assert connection.dropped
        draining = asyncio.create_task(connection.drained())
        transport.resume_reading()
        reading = asyncio.create_task(peer.is_closed())
        async with asyncio.timeout(PATIENCE):
            await draining
        assert connection.send("a", b"")
        reading.cancel()


async def test_what_a_slow_broker_may_be_owed_is_bounded_as_was_said(broker: ScriptedBroker) -> None:
    async with connected(broker, write_buffer=100 * MIB) as (connection, peer):
        transport = peer.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        assert all(connection.send("a", bytes(60_000)) for _ in range(1000))


async def test_what_waits_for_the_broker_fails_with_the_connection(broker: ScriptedBroker) -> None:
    async with connected(broker) as (connection, peer):
        publishing = asyncio.create_task(connection.publish("a", b""))
        subscribing = asyncio.create_task(connection.subscribe(Subscription("a")))
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(connection.until(answer))
        await peer.expect(mqtt5.PublishPacket)
        await peer.expect(mqtt5.SubscribePacket)
        peer.send(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SERVER_SHUTTING_DOWN))
        for task in (publishing, subscribing, waiting):
            with pytest.raises(Unavailable, match="the broker is shutting down"):
                await task
        with pytest.raises(Unavailable, match="shutting down"):
            await connection.publish("a", b"")
        assert not connection.send("a", b"")


async def test_a_subscription_asks_for_what_was_meant(broker: ScriptedBroker) -> None:
    async with connected(broker) as (connection, peer):
        granting = asyncio.create_task(peer.grant())
        await connection.subscribe(
            Subscription("a/#", retained_once=True, own=False), Subscription("b", qos=0)
        )
        once, always = (await granting).topic_filters
        assert (once.pattern, once.max_qos, once.no_local) == ("a/#", mqtt5.QoS.AT_LEAST_ONCE, True)
        assert once.retain_handling == mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
        assert (always.pattern, always.max_qos, always.no_local) == ("b", mqtt5.QoS.AT_MOST_ONCE, False)
        assert always.retain_handling == mqtt5.RetainHandling.SEND_ALWAYS


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (mqtt5.SubAckReasonCode.NOT_AUTHORIZED, "refuses to subscribe a/#: not authorised"),
        (mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE, "grants QoS 0 for a/#, 1 is needed"),
    ],
)
async def test_a_subscription_that_is_not_granted_says_why(
    broker: ScriptedBroker, code: mqtt5.SubAckReasonCode, words: str
) -> None:
    async with connected(broker) as (connection, peer):
        granting = asyncio.create_task(peer.grant(code))
        with pytest.raises(Unavailable, match=words):
            await connection.subscribe(Subscription("a/#"))
        await granting


async def test_who_disconnects_is_heard_and_has_no_will(broker: ScriptedBroker) -> None:
    async with connected(broker, leave_within=PATIENCE) as (connection, peer):
        connection.send("last", b"words")
        leaving = asyncio.create_task(connection.disconnect())
        assert (await peer.expect(mqtt5.PublishPacket)).topic == "last"
        goodbye = await peer.expect(mqtt5.DisconnectPacket)
        assert goodbye.reason_code == mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION
        # What is unread at our end must not reset the connection: it would take our last packets with it.
        peer.send(bytes(100_000))
        for _ in range(10):  # turns of the loop
            await asyncio.sleep(0)
        assert not leaving.done()
        await peer.close()
        await leaving


async def test_a_broker_that_never_hangs_up_is_left_alone(broker: ScriptedBroker) -> None:
    async with connected(broker, leave_within=0.01) as (connection, peer):
        await connection.disconnect()
        assert await peer.is_closed()
