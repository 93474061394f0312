"""What the server sends by the embedded broker: commands, configurations and live values."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from pingup.brokers.limits import KIB, Limits
from pingup.model import Scope
from pingup.topics import SYS_STATUS, Live, down_commands, down_config, live
from tests.conftest import ManualClock
from tests.contract.broker_rig import Peer, Rig, metrics, open_rig
from tests.contract.mqtt_packets import PUBACK, PUBLISH, UNSUBACK, answer, packet, publish, unsubscribe

COMMANDS = down_commands("A")
PRESENCE = live("B", Live.PRESENCE)


async def _acknowledge(peer: Peer) -> bytes:
    received = await peer.arrival()
    peer.send(answer(0x40, received.packet_id))
    return received.payload


# --- deliver ---------------------------------------------------------------------------------------


async def test_a_delivery_is_true_once_its_agent_has_acknowledged_it(rig: Rig) -> None:
    agent = await rig.agent("A")
    await agent.subscribe(COMMANDS)
    delivery = asyncio.create_task(rig.broker.deliver(COMMANDS, b"do it"))
    received = await agent.arrival()
    assert (received.payload, received.qos, received.retain, received.dup) == (b"do it", 1, False, False)
    assert not delivery.done()
    agent.send(answer(0x40, received.packet_id))
    assert await delivery


async def test_a_delivery_that_only_a_watcher_acknowledges_is_not_true() -> None:
    async with open_rig(Limits(acknowledge_within=0.1)) as rig:
        admin = await rig.operator("admin")
        await admin.subscribe("pingup/#")
        agent = await rig.agent("A")
        await agent.subscribe(COMMANDS)
        delivery = asyncio.create_task(rig.broker.deliver(COMMANDS, b"do it"))
        assert await _acknowledge(admin) == b"do it"
        assert not await delivery


async def test_a_delivery_to_nobody_is_false_at_once(rig: Rig) -> None:
    assert not await rig.broker.deliver(COMMANDS, b"do it")


async def test_a_delivery_is_false_as_soon_as_its_agent_goes(rig: Rig) -> None:
    agent = await rig.agent("A")
    await agent.subscribe(COMMANDS)
    delivery = asyncio.create_task(rig.broker.deliver(COMMANDS, b"do it"))
    await agent.arrival()
    await agent.break_off()
    assert not await delivery


async def test_an_unacknowledged_delivery_is_sent_again_when_a_kept_session_comes_back() -> None:
    async with open_rig(Limits(acknowledge_within=0.01)) as rig:
        agent = await rig.agent("A", clean=False)
        await agent.subscribe(COMMANDS)
        for number in (b"1", b"2"):
            assert not await rig.broker.deliver(COMMANDS, number)
        first = await agent.arrival()
        assert (await agent.arrival()).payload == b"2"
        await agent.break_off()
        agent = await rig.agent("A", clean=False, present=True)
        again = await agent.arrival()
        assert (again.payload, again.dup, again.packet_id) == (b"1", True, first.packet_id)
        agent.send(answer(0x40, again.packet_id))
        assert (await agent.arrival()).payload == b"2"
        assert await agent.is_quiet()


async def test_what_waited_for_a_kept_session_comes_in_order_and_not_as_retained(rig: Rig) -> None:
    agent = await rig.agent("A", clean=False)
    await agent.subscribe(COMMANDS)
    await agent.leave()
    for number in (b"1", b"2", b"3"):
        assert not await rig.broker.deliver(COMMANDS, number)
    agent = await rig.agent("A", clean=False, present=True)
    received = [await agent.arrival() for _ in range(3)]
    assert [one.payload for one in received] == [b"1", b"2", b"3"]
    assert not any(one.retain or one.dup for one in received)


async def test_a_session_that_is_not_kept_gets_nothing_that_was_sent_while_it_was_away(rig: Rig) -> None:
    agent = await rig.agent("A")
    await agent.subscribe(COMMANDS)
    await agent.leave()
    await rig.broker.deliver(COMMANDS, b"missed")
    agent = await rig.agent("A", clean=False, present=False)
    assert await agent.is_quiet()


async def test_a_message_is_not_kept_beyond_its_time() -> None:
    clock = ManualClock(datetime(2026, 2, 25, 10, tzinfo=UTC))
    async with open_rig(Limits(acknowledge_within=0.01), clock) as rig:
        agent = await rig.agent("A", clean=False)
        await agent.subscribe(COMMANDS)
        soon = clock.now() + timedelta(minutes=1)
        await rig.broker.deliver(COMMANDS, b"sent and not acknowledged", expires_at=soon)
        await agent.arrival()
        await agent.leave()
        await rig.broker.deliver(COMMANDS, b"queued", expires_at=soon)
        await rig.broker.deliver(COMMANDS, b"without an end")
        clock.advance(minutes=2)
        agent = await rig.agent("A", clean=False, present=True)
        assert (await agent.arrival()).payload == b"without an end"
        assert await agent.is_quiet()


async def test_the_queue_of_a_kept_session_is_bounded_by_number(caplog: pytest.LogCaptureFixture) -> None:
    async with open_rig(Limits(queued=3)) as rig:
        agent = await rig.agent("A", clean=False)
        await agent.subscribe(COMMANDS)
        await agent.leave()
        for number in range(5):
            await rig.broker.deliver(COMMANDS, b"%d" % number)
        agent = await rig.agent("A", clean=False, present=True)
        assert [(await agent.arrival()).payload for _ in range(3)] == [b"0", b"1", b"2"]
        assert await agent.is_quiet()
    assert caplog.text.count("is dropped") == 1


async def test_the_queue_of_a_kept_session_is_bounded_by_bytes() -> None:
    async with open_rig(Limits(queued_bytes=1000)) as rig:
        agent = await rig.agent("A", clean=False)
        await agent.subscribe(COMMANDS)
        await agent.leave()
        for _ in range(3):
            await rig.broker.deliver(COMMANDS, bytes(400))
        agent = await rig.agent("A", clean=False, present=True)
        for _ in range(2):
            await agent.arrival()
        assert await agent.is_quiet()


async def test_deliveries_in_flight_are_bounded_and_go_on_with_each_acknowledgement() -> None:
    async with open_rig(Limits(in_flight=2, acknowledge_within=0.01)) as rig:
        agent = await rig.agent("A")
        await agent.subscribe(COMMANDS)
        for number in range(4):
            await rig.broker.deliver(COMMANDS, b"%d" % number)
        first, second = await agent.arrival(), await agent.arrival()
        assert await agent.is_quiet()
        agent.send(answer(0x40, first.packet_id), answer(0x40, second.packet_id))
        assert [await _acknowledge(agent), await _acknowledge(agent)] == [b"2", b"3"]


async def test_a_client_gets_the_quality_that_it_asked_for_and_at_most_1(rig: Rig) -> None:
    agent = await rig.agent("A")
    assert await agent.subscribe(COMMANDS, qos=0) == [0]
    assert await agent.subscribe(SYS_STATUS, qos=2) == [1]
    # Who wants nothing to acknowledge has got it.
    assert await rig.broker.deliver(COMMANDS, b"x")
    assert (await agent.arrival()).qos == 0
    delivery = asyncio.create_task(rig.broker.deliver(SYS_STATUS, b"x"))
    assert await _acknowledge(agent) == b"x"
    assert await delivery


async def test_overlapping_filters_bring_a_message_once_with_the_best_quality(rig: Rig) -> None:
    agent = await rig.agent("A")
    await agent.subscribe("#", qos=0)
    await agent.subscribe("pingup/v1/down/A/+", qos=1)
    delivery = asyncio.create_task(rig.broker.deliver(COMMANDS, b"x"))
    received = await agent.arrival()
    assert received.qos == 1
    assert await agent.is_quiet()
    agent.send(answer(0x40, received.packet_id))
    assert await delivery


async def test_an_acknowledgement_of_nothing_is_ignored(rig: Rig) -> None:
    agent = await rig.agent("A")
    agent.send(answer(0x40, 77))
    assert await agent.is_quiet()


# --- retained --------------------------------------------------------------------------------------


async def test_a_retained_message_is_live_to_who_is_there_and_retained_to_who_comes(rig: Rig) -> None:
    agent = await rig.agent("A")
    await agent.subscribe(down_config("A"))
    delivery = asyncio.create_task(rig.broker.deliver(down_config("A"), b"v1", retain=True))
    received = await agent.arrival()
    assert not received.retain
    agent.send(answer(0x40, received.packet_id))
    assert await delivery
    agent = await rig.agent("A")
    await agent.subscribe(down_config("A"))
    received = await agent.arrival()
    assert (received.payload, received.retain, received.qos) == (b"v1", True, 1)


async def test_the_newest_retained_message_replaces_the_one_before_and_an_empty_one_clears(rig: Rig) -> None:
    for payload in (b"old", b"new"):
        rig.broker.emit(PRESENCE, payload, retain=True)
    rig.broker.emit(PRESENCE, b"passing")
    operator = await rig.operator("one", Scope.READ)
    await operator.subscribe("pingup/v1/live/+/presence")
    assert (await operator.arrival()).payload == b"new"
    rig.broker.emit(PRESENCE, b"", retain=True)
    cleared = await operator.arrival()
    assert (cleared.payload, cleared.retain) == (b"", False)
    await operator.subscribe("pingup/v1/live/#")
    assert await operator.is_quiet()


async def test_what_is_retained_before_the_broker_is_open_is_there_for_who_comes() -> None:
    topic = live("A", Live.PRESENCE)
    async with open_rig(retained={topic: b"online"}) as rig:
        operator = await rig.operator("one", Scope.READ)
        await operator.subscribe(topic)
        assert (await operator.arrival()).payload == b"online"


async def test_who_watches_the_server_sees_it_go() -> None:
    stack = AsyncExitStack()
    rig = await stack.enter_async_context(open_rig())
    operator = await rig.operator("one", Scope.READ)
    await operator.subscribe(SYS_STATUS)
    closing = asyncio.create_task(stack.aclose())
    assert (await operator.arrival()).payload == b"offline"
    await closing


@pytest.mark.parametrize("qos", [0, 1])
async def test_any_number_of_retained_messages_reaches_a_client_that_reads(qos: int) -> None:
    async with open_rig(Limits(queued=10, in_flight=5, write_buffer_pause=64 * KIB)) as rig:
        topics = {live(f"agent-{index}", Live.PRESENCE) for index in range(500)}
        for topic in topics:
            await rig.broker.deliver(topic, bytes(1000), retain=True)
        operator = await rig.operator("one", Scope.READ)
        await operator.subscribe("pingup/v1/live/+/presence", qos=qos)
        seen = set()
        for _ in topics:
            received = await operator.arrival()
            assert (received.retain, received.qos) == (True, qos)
            seen.add(received.topic)
            if qos:
                operator.send(answer(0x40, received.packet_id))
        assert seen == topics
        assert await operator.is_quiet()


async def test_unsubscribing_ends_what_was_subscribed_to(rig: Rig) -> None:
    agent = await rig.agent("A")
    await agent.subscribe(COMMANDS, SYS_STATUS)
    agent.send(unsubscribe(COMMANDS, "never/subscribed"))
    await agent.expect(UNSUBACK)
    rig.broker.emit(COMMANDS, b"x")
    rig.broker.emit(SYS_STATUS, b"y")
    assert (await agent.arrival()).topic == SYS_STATUS
    assert not rig.broker.is_listening("A")


# --- slow readers ----------------------------------------------------------------------------------


async def _fill(rig: Rig, topic: str) -> int:
    """Send many more messages than the buffers of a socket take; how many."""
    count = 512
    for _ in range(count):
        rig.broker.emit(topic, bytes(64 * KIB))
        await asyncio.sleep(0)
    return count


async def test_a_stalled_reader_slows_nobody_and_loses_live_messages_only_then() -> None:
    async with open_rig(Limits(write_buffer=128 * KIB)) as rig:
        stalled = await rig.operator("stalled", Scope.READ)
        await stalled.subscribe("#", qos=0)
        brisk = await rig.operator("brisk", Scope.READ)
        await brisk.subscribe(SYS_STATUS, qos=0)
        sent = await _fill(rig, PRESENCE)
        rig.broker.emit(SYS_STATUS, b"news")
        assert (await brisk.arrival()).payload == b"news"
        stalled.send(packet(0xC0))
        arrived = 0
        while (await stalled.read()).kind == PUBLISH:
            arrived += 1
        assert 0 < arrived < sent
        rig.broker.emit(SYS_STATUS, b"more news")
        assert (await stalled.arrival()).payload == b"more news"


async def test_a_client_that_leaves_its_answers_unread_is_cut_off() -> None:
    async with open_rig(Limits(write_buffer_pause=128 * KIB, stall=0.1)) as rig:
        stalled = await rig.operator("stalled", Scope.READ)
        await stalled.subscribe("#", qos=0)
        await _fill(rig, PRESENCE)
        assert await stalled.is_cut_off()


async def test_retained_messages_wait_for_a_slow_reader_and_are_the_newest_when_they_are_sent() -> None:
    async with open_rig(Limits(write_buffer_pause=128 * KIB, write_buffer=128 * KIB)) as rig:
        topics = [live(f"agent-{index}", Live.PRESENCE) for index in range(512)]
        for topic in topics:
            rig.broker.emit(topic, b"old" + bytes(64 * KIB), retain=True)
        slow = await rig.operator("slow", Scope.READ)
        await slow.subscribe("#", qos=0)
        brisk = await rig.operator("brisk", Scope.READ)
        assert await brisk.is_quiet()
        for topic in topics:
            rig.broker.emit(topic, b"new" + bytes(64 * KIB), retain=True)
        newest: dict[str, bytes] = {}
        while len(newest) < len(topics):
            received = await slow.arrival()
            newest[received.topic] = received.payload[:3]
        assert b"new" in newest.values()


# --- listening -------------------------------------------------------------------------------------


async def test_an_agent_is_listening_from_its_subscription_on_until_it_goes(rig: Rig) -> None:
    assert not rig.broker.is_listening("A")
    agent = await rig.agent("A")
    assert not rig.broker.is_listening("A")
    await agent.subscribe("pingup/v1/down/A/#")
    assert rig.broker.is_listening("A")
    assert rig.listening == ["A"]
    await agent.subscribe(SYS_STATUS)
    assert rig.listening == ["A"]
    await agent.leave()
    assert not rig.broker.is_listening("A")


async def test_an_agent_that_resumes_its_subscription_is_listening_at_once(rig: Rig) -> None:
    agent = await rig.agent("A", clean=False)
    await agent.subscribe(COMMANDS)
    await agent.leave()
    agent = await rig.agent("A", clean=False, present=True)
    assert await agent.is_quiet()
    assert rig.broker.is_listening("A")
    assert rig.listening == ["A", "A"]


async def test_who_does_not_get_commands_is_not_listening(rig: Rig) -> None:
    agent = await rig.agent("A")
    await agent.subscribe(down_config("A"))
    admin = await rig.operator("admin")
    await admin.subscribe("pingup/#")
    assert not rig.broker.is_listening("A")
    assert not rig.listening


# --- people who watch agents -----------------------------------------------------------------------


async def test_an_admin_with_a_kept_session_gets_what_agents_published_meanwhile(rig: Rig) -> None:
    admin = await rig.operator("admin", clean=False)
    await admin.subscribe("pingup/v1/up/#")
    await admin.leave()
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"1", packet_id=1), publish(metrics("A"), b"2"))
    await agent.expect(PUBACK)
    await rig.ingest.took(2)
    admin = await rig.operator("admin", clean=False, present=True)
    received = await admin.arrival()
    assert (received.payload, received.qos) == (b"1", 1)
    assert await admin.is_quiet()
