"""What agents publish to the embedded broker: acknowledged when it is committed, in order, and never lost."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from pingup.brokers.limits import MIB, Limits
from pingup.errors import Reason
from pingup.model import Outcome, Scope
from tests.contract.broker_rig import PATIENCE, Peer, Refusal, Rig, metrics, open_rig, status
from tests.contract.mqtt_packets import PUBACK, PUBCOMP, PUBREC, Will, answer, number, packet, publish


async def _acknowledged(peer: Peer, count: int) -> list[int]:
    return [number(await peer.expect(PUBACK)) for _ in range(count)]


async def test_a_puback_leaves_after_the_commit_and_not_before(rig: Rig) -> None:
    rig.ingest.is_instant = False
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"one", packet_id=7))
    await rig.ingest.took(1)
    assert await agent.is_quiet()
    rig.ingest.commit()
    assert await _acknowledged(agent, 1) == [7]


async def test_a_refused_message_is_acknowledged_like_a_committed_one(rig: Rig) -> None:
    rig.ingest.is_instant = False
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"bad", packet_id=7))
    await rig.ingest.took(1)
    rig.ingest.reject()
    assert await _acknowledged(agent, 1) == [7]


async def test_pubacks_leave_in_the_order_of_receipt(rig: Rig) -> None:
    rig.ingest.is_instant = False
    agent = await rig.agent("A")
    agent.send(*(publish(metrics("A"), b"x", packet_id=index) for index in (3, 2, 1)))
    await rig.ingest.took(3)
    rig.ingest.commit(2)
    rig.ingest.reject(1)
    assert await agent.is_quiet()
    rig.ingest.commit(0)
    assert await _acknowledged(agent, 3) == [3, 2, 1]


async def test_what_reaches_ingest_says_where_it_came_from(rig: Rig) -> None:
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"payload", packet_id=1))
    await agent.expect(PUBACK)
    (inbound,) = rig.ingest.taken
    assert (inbound.kind, inbound.agent_id, inbound.payload, inbound.source) == (
        "metrics",
        "A",
        b"payload",
        metrics("A"),
    )
    assert inbound.received_at.tzinfo is not None


async def test_a_publisher_that_leaves_after_its_pubacks_has_lost_nothing(rig: Rig) -> None:
    agent = await rig.agent("A")
    for index in range(1, 2001):
        agent.send(publish(metrics("A"), b"%d" % index, packet_id=index))
    await _acknowledged(agent, 2000)
    await agent.break_off()
    assert [inbound.payload for inbound in rig.ingest.taken] == [b"%d" % index for index in range(1, 2001)]


async def test_a_publisher_that_does_not_wait_for_its_pubacks_loses_nothing_by_a_goodbye(rig: Rig) -> None:
    agent = await rig.agent("A")
    agent.send(*(publish(metrics("A"), b"x", packet_id=index) for index in range(1, 501)))
    agent.send(packet(0xE0))
    await agent.close()
    await rig.ingest.took(500)


async def test_what_was_offered_when_the_connection_broke_is_still_passed_on_after_its_commit(
    rig: Rig,
) -> None:
    rig.ingest.is_instant = False
    admin = await rig.operator("admin")
    await admin.subscribe("pingup/#")
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"one", packet_id=1))
    await rig.ingest.took(1)
    await agent.break_off()
    assert not rig.ingest.verdicts[0].cancelled()
    rig.ingest.commit()
    assert (await admin.arrival()).payload == b"one"


async def test_a_message_that_could_not_be_stored_ends_the_connection_unacknowledged(rig: Rig) -> None:
    rig.ingest.is_instant = False
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"x", packet_id=1), publish(metrics("A"), b"x", packet_id=2))
    await rig.ingest.took(2)
    rig.ingest.fail(0)
    rig.ingest.commit(1)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await agent.read()


async def test_nothing_more_is_read_while_the_server_has_no_room(rig: Rig) -> None:
    agent = await rig.agent("A")
    rig.ingest.space.clear()
    agent.send(publish(metrics("A"), b"x", packet_id=1))
    other = await rig.agent("B")
    assert await other.is_quiet()
    assert not rig.ingest.taken
    rig.ingest.space.set()
    assert await _acknowledged(agent, 1) == [1]


async def test_reading_pauses_while_too_much_of_a_connection_is_unacknowledged() -> None:
    async with open_rig(Limits(unacknowledged=10)) as rig:
        rig.ingest.is_instant = False
        agent = await rig.agent("A")
        agent.send(*(publish(metrics("A"), b"x", packet_id=index) for index in range(1, 21)))
        await rig.ingest.took(10)
        other = await rig.agent("B")
        assert await other.is_quiet()
        assert len(rig.ingest.taken) == 10
        rig.ingest.release()
        assert await _acknowledged(agent, 20) == list(range(1, 21))


async def test_reading_pauses_while_too_many_bytes_are_unacknowledged() -> None:
    async with open_rig(Limits(unacknowledged_bytes=1000)) as rig:
        rig.ingest.is_instant = False
        agent = await rig.agent("A")
        agent.send(*(publish(metrics("A"), bytes(600), packet_id=index) for index in range(1, 5)))
        await rig.ingest.took(2)
        other = await rig.agent("B")
        assert await other.is_quiet()
        assert len(rig.ingest.taken) == 2
        rig.ingest.release()
        assert await _acknowledged(agent, 4) == [1, 2, 3, 4]


async def test_qos_0_is_taken_without_an_acknowledgement(rig: Rig) -> None:
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"x"))
    await rig.ingest.took(1)
    assert await agent.is_quiet()


# --- QoS 2 -----------------------------------------------------------------------------------------


async def test_a_pubrec_leaves_after_the_commit_and_a_repeat_is_not_taken_twice(rig: Rig) -> None:
    rig.ingest.is_instant = False
    agent = await rig.agent("A")
    message = publish(metrics("A"), b"x", packet_id=5, qos=2)
    repeat = publish(metrics("A"), b"x", packet_id=5, qos=2, dup=True)
    agent.send(message, repeat)
    await rig.ingest.took(1)
    assert await agent.is_quiet()
    rig.ingest.commit()
    assert number(await agent.expect(PUBREC)) == 5
    agent.send(repeat)
    assert number(await agent.expect(PUBREC)) == 5
    agent.send(answer(0x62, 5))
    assert number(await agent.expect(PUBCOMP)) == 5
    assert len(rig.ingest.taken) == 1
    agent.send(message)
    await rig.ingest.took(2)


async def test_a_qos_2_message_repeated_after_a_reconnect_of_a_kept_session_is_not_taken_twice(
    rig: Rig,
) -> None:
    agent = await rig.agent("A", clean=False)
    agent.send(publish(metrics("A"), b"x", packet_id=5, qos=2))
    await agent.expect(PUBREC)
    await agent.break_off()
    agent = await rig.agent("A", clean=False, present=True)
    agent.send(publish(metrics("A"), b"x", packet_id=5, qos=2, dup=True))
    assert number(await agent.expect(PUBREC)) == 5
    assert len(rig.ingest.taken) == 1


async def test_qos_2_messages_that_are_never_released_are_bounded() -> None:
    async with open_rig(Limits(unreleased=10)) as rig:
        agent = await rig.agent("A")
        for packet_id in range(1, 12):
            agent.send(publish(metrics("A"), b"x", packet_id=packet_id, qos=2))
            await agent.expect(PUBREC)
        agent.send(publish(metrics("A"), b"x", packet_id=1, qos=2, dup=True))
        await agent.expect(PUBREC)
        # The oldest was forgotten, so it is taken again; the store drops the repeat.
        assert len(rig.ingest.taken) == 12


# --- what is not taken -----------------------------------------------------------------------------


async def test_a_denied_publish_is_acknowledged_dropped_and_counted(rig: Rig) -> None:
    agent = await rig.agent("A")
    agent.send(
        publish(metrics("B"), b"x", packet_id=1),
        publish("pingup/v1/down/A/commands", b"x", packet_id=2),
        publish("elsewhere", b"x", packet_id=3, retain=True),
        publish("$SYS/a", b"x", packet_id=4),
    )
    assert await _acknowledged(agent, 4) == [1, 2, 3, 4]
    assert not rig.ingest.taken
    assert [one.source for one in rig.rejects.noted] == [
        metrics("B"),
        "pingup/v1/down/A/commands",
        "elsewhere",
        "$SYS/a",
    ]
    assert {(one.agent_id, one.reason) for one in rig.rejects.noted} == {("A", Reason.NOT_ALLOWED)}


async def test_an_unknown_kind_is_acknowledged_dropped_and_counted(rig: Rig) -> None:
    agent = await rig.agent("A")
    agent.send(publish("pingup/v1/up/A/gossip", b"x", packet_id=1))
    assert await _acknowledged(agent, 1) == [1]
    assert rig.rejects.noted == [Refusal("A", "pingup/v1/up/A/gossip", Reason.UNKNOWN_KIND)]


async def test_an_operator_publishes_nothing(rig: Rig) -> None:
    operator = await rig.operator("admin", Scope.ADMIN)
    operator.send(publish(metrics("A"), b"x", packet_id=1))
    assert await _acknowledged(operator, 1) == [1]
    assert rig.rejects.noted == [Refusal(None, metrics("A"), Reason.NOT_ALLOWED)]
    assert not rig.ingest.taken


async def test_a_payload_of_1_mib_is_read_and_a_larger_one_closes_the_connection(rig: Rig) -> None:
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), bytes(MIB), packet_id=1))
    assert await _acknowledged(agent, 1) == [1]
    assert len(rig.ingest.taken[0].payload) == MIB
    agent.send(publish(metrics("A"), bytes(MIB + 1), packet_id=2))
    assert await agent.is_closed()
    assert len(rig.ingest.taken) == 1


async def test_a_packet_over_the_limit_closes_the_connection_before_it_is_read(rig: Rig) -> None:
    agent = await rig.agent("A")
    agent.send(b"\x32\xff\xff\xff\x7f")
    assert await agent.is_closed()


# --- passing on ------------------------------------------------------------------------------------


async def test_other_subscribers_get_a_message_after_its_commit_and_never_a_refused_one(rig: Rig) -> None:
    rig.ingest.is_instant = False
    admin = await rig.operator("admin")
    await admin.subscribe("pingup/#")
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"bad", packet_id=1), publish(metrics("A"), b"good", packet_id=2))
    await rig.ingest.took(2)
    assert await admin.is_quiet()
    rig.ingest.reject(0)
    rig.ingest.commit(1)
    received = await admin.arrival()
    assert (received.topic, received.payload, received.qos, received.retain) == (
        metrics("A"),
        b"good",
        1,
        False,
    )


async def test_a_birth_is_retained_after_its_commit_and_a_refused_one_is_not(rig: Rig) -> None:
    rig.ingest.is_instant = False
    agent = await rig.agent("A")
    agent.send(
        publish(status("A"), b"good", packet_id=1, retain=True),
        publish(status("A"), b"bad", packet_id=2, retain=True),
    )
    await rig.ingest.took(2)
    rig.ingest.commit(0)
    rig.ingest.reject(1)
    await _acknowledged(agent, 2)
    admin = await rig.operator("admin")
    await admin.subscribe("pingup/v1/up/+/status")
    received = await admin.arrival()
    assert (received.payload, received.retain) == (b"good", True)
    assert await admin.is_quiet()


async def test_of_what_agents_publish_only_births_are_retained(rig: Rig) -> None:
    agent = await rig.agent("A")
    agent.send(publish("pingup/v1/up/A/metrics", b"x", packet_id=1, retain=True))
    await _acknowledged(agent, 1)
    admin = await rig.operator("admin")
    await admin.subscribe("pingup/v1/up/#")
    assert await admin.is_quiet()


# --- wills -----------------------------------------------------------------------------------------


async def test_a_will_is_taken_in_like_any_message_then_retained_and_passed_on(rig: Rig) -> None:
    admin = await rig.operator("admin")
    await admin.subscribe("pingup/v1/up/#")
    agent = await rig.agent("A", will=Will(status("A"), b"gone", retain=True))
    rig.ingest.is_instant = False
    await agent.break_off()
    await rig.ingest.took(1)
    assert (rig.ingest.taken[0].kind, rig.ingest.taken[0].payload) == ("status", b"gone")
    assert await admin.is_quiet()
    rig.ingest.commit()
    assert (await admin.arrival()).payload == b"gone"
    late = await rig.operator("late")
    await late.subscribe("pingup/v1/up/#")
    assert (await late.arrival()).retain


async def test_a_refused_will_reaches_nobody(rig: Rig) -> None:
    admin = await rig.operator("admin")
    await admin.subscribe("pingup/#")
    agent = await rig.agent("A", will=Will(status("A"), b"forged", retain=True))
    rig.ingest.is_instant = False
    await agent.break_off()
    await rig.ingest.took(1)
    rig.ingest.reject()
    assert await admin.is_quiet()


@pytest.mark.parametrize(
    "topic", ["pingup/v1/up/B/status", "pingup/v1/down/B/commands", "pingup/v1/up/A/gossip", "live"]
)
async def test_a_will_that_may_not_be_published_is_dropped_and_counted(rig: Rig, topic: str) -> None:
    admin = await rig.operator("admin")
    await admin.subscribe("pingup/#")
    victim = await rig.agent("B")
    await victim.subscribe("pingup/v1/down/B/#")
    agent = await rig.agent("A", will=Will(topic, b"evil", retain=True))
    assert [one.source for one in rig.rejects.noted] == [topic]
    await agent.break_off()
    agent = await rig.agent("A")
    assert await victim.is_quiet()
    assert await admin.is_quiet()
    assert len(rig.rejects.noted) == 1
    assert not rig.ingest.taken


async def test_a_will_is_not_published_after_a_goodbye(rig: Rig) -> None:
    agent = await rig.agent("A", will=Will(status("A"), b"gone"))
    await agent.leave()
    agent = await rig.agent("A")
    assert await agent.is_quiet()
    assert not rig.ingest.taken


async def test_a_broken_rule_publishes_the_will(rig: Rig) -> None:
    agent = await rig.agent("A", will=Will(status("A"), b"gone"))
    agent.send(b"\xf0\x00")
    assert await agent.is_closed()
    await rig.ingest.took(1)


async def test_a_will_that_finds_no_room_holds_up_nobody_for_long() -> None:
    async with open_rig(Limits(will_within=0.05)) as rig:
        agent = await rig.agent("A", will=Will(status("A"), b"gone"))
        rig.ingest.space.clear()
        await agent.break_off()
        agent = await rig.agent("A")
        assert await agent.is_quiet()
        assert not rig.ingest.taken


async def test_a_closing_broker_acknowledges_and_passes_on_what_was_offered() -> None:
    stack = AsyncExitStack()
    rig = await stack.enter_async_context(open_rig())
    admin = await rig.operator("admin")
    await admin.subscribe("pingup/v1/up/#")
    agent = await rig.agent("A")
    rig.ingest.is_instant = False
    agent.send(publish(metrics("A"), b"x", packet_id=1))
    await rig.ingest.took(1)
    verdict = rig.ingest.verdicts.pop()
    stranger = await rig.peer()
    closing = asyncio.create_task(stack.aclose())
    assert await stranger.is_closed()
    await _nobody_is_accepted(rig)
    agent.send(publish(metrics("A"), b"too late", packet_id=2))
    verdict.set_result(Outcome(stored=1))
    assert await _acknowledged(agent, 1) == [1]
    assert (await admin.arrival()).payload == b"x"
    assert await agent.is_closed()
    await closing
    assert len(rig.ingest.taken) == 1


async def _nobody_is_accepted(rig: Rig) -> None:
    """Wait until the broker has stopped listening."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await asyncio.sleep(0.01)
            try:
                _, writer = await asyncio.open_connection(rig.broker.host, rig.broker.port)
            except ConnectionError:
                return
            writer.close()
