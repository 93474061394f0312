"""A message is acknowledged after its verdict, in the order of receipt, where it was delivered, or never."""

from __future__ import annotations

import asyncio

import mqtt5
import pytest

from pingup.brokers.session import Message
from pingup.errors import Reason, Rejected, Unavailable
from tests.session.peer import PATIENCE, Inbox, ScriptedBroker, connected, publish


async def test_nothing_is_acknowledged_before_its_verdict(broker: ScriptedBroker, inbox: Inbox) -> None:
    inbox.is_instant = False
    async with connected(broker, inbox.take) as (connection, peer):
        peer.send(publish(7))
        await inbox.took(1)
        # Were there a PUBACK, it would come before what is sent now.
        connection.send("later", b"")
        assert (await peer.expect(mqtt5.PublishPacket)).topic == "later"
        inbox.verdicts[0].set_result(None)
        assert await peer.acks(1) == [7]


async def test_acknowledgements_keep_the_order_of_receipt_and_go_out_together(
    broker: ScriptedBroker, inbox: Inbox
) -> None:
    inbox.is_instant = False
    async with connected(broker, inbox.take) as (_, peer):
        peer.send(*(publish(number) for number in (5, 3, 9)))
        await inbox.took(3)
        inbox.verdicts[2].set_result(None)
        inbox.verdicts[1].set_exception(Rejected(Reason.INVALID, "no good"))
        inbox.verdicts[0].set_result(None)
        expected = b"".join(mqtt5.PubAckPacket(number).write() for number in (5, 3, 9))
        assert await peer.next_bytes() == expected


async def test_what_needs_no_verdict_still_waits_for_what_came_before(
    broker: ScriptedBroker, inbox: Inbox
) -> None:
    inbox.is_instant = False
    async with connected(broker, inbox.take) as (connection, peer):
        peer.send(publish(1))
        await inbox.took(1)
        inbox.is_instant = True
        peer.send(publish(2))
        await inbox.took(2)
        connection.send("later", b"")
        await peer.expect(mqtt5.PublishPacket)
        inbox.verdicts[0].set_result(None)
        assert await peer.acks(2) == [1, 2]


async def test_messages_of_qos_0_are_taken_and_not_acknowledged(broker: ScriptedBroker, inbox: Inbox) -> None:
    async with connected(broker, inbox.take) as (_, peer):
        peer.send(mqtt5.PublishPacket("a", b"1"), publish(4))
        assert [message.qos for message in await inbox.took(2)] == [0, 1]
        assert await peer.acks(1) == [4]


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_what_cannot_be_taken_now_ends_the_connection_unacknowledged(
    broker: ScriptedBroker, inbox: Inbox, is_cancelled: bool
) -> None:
    inbox.is_instant = False
    async with connected(broker, inbox.take) as (connection, peer):
        peer.send(publish(1), publish(2), publish(3))
        await inbox.took(3)
        inbox.verdicts[0].set_result(None)
        if is_cancelled:
            inbox.verdicts[1].cancel()
        else:
            inbox.verdicts[1].set_exception(Unavailable("the store is down"))
        inbox.verdicts[2].set_result(None)
        assert await peer.acks(1) == [1]
        goodbye = await peer.expect(mqtt5.DisconnectPacket)
        # With its will: who watches sees that the server is away.
        assert goodbye.reason_code == mqtt5.DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE
        with pytest.raises(Unavailable, match="the server stops" if is_cancelled else "the store is down"):
            await connection.until_lost()


async def test_a_verdict_that_comes_after_the_connection_is_acknowledged_nowhere(
    broker: ScriptedBroker, inbox: Inbox
) -> None:
    inbox.is_instant = False
    async with connected(broker, inbox.take) as (connection, peer):
        peer.send(publish(1))
        await inbox.took(1)
        await peer.close()
        with pytest.raises(Unavailable):
            await connection.until_lost()
    async with connected(broker, inbox.take) as (connection, peer):
        inbox.verdicts[0].set_result(None)
        peer.send(publish(1))
        await inbox.took(2)
        connection.send("later", b"")
        assert (await peer.expect(mqtt5.PublishPacket)).topic == "later"


async def test_a_bug_in_who_takes_messages_is_raised_and_nothing_acknowledged(broker: ScriptedBroker) -> None:
    def broken(_: list[Message]) -> list[None]:
        raise RuntimeError("a bug")

    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))
    async with connected(broker, broken) as (connection, peer):
        peer.send(publish(1))
        with pytest.raises(RuntimeError, match="a bug"):
            await connection.until_lost()
        assert await peer.is_closed()
    assert [str(problem) for problem in problems] == ["a bug"]


async def test_a_verdict_that_is_a_bug_is_raised(broker: ScriptedBroker, inbox: Inbox) -> None:
    inbox.is_instant = False
    async with connected(broker, inbox.take) as (connection, peer):
        peer.send(publish(1))
        await inbox.took(1)
        inbox.verdicts[0].set_exception(RuntimeError("a bug"))
        with pytest.raises(RuntimeError, match="a bug"):
            await connection.until_lost()


async def test_all_that_was_taken_can_be_waited_for(broker: ScriptedBroker, inbox: Inbox) -> None:
    inbox.is_instant = False
    async with connected(broker, inbox.take) as (connection, peer):
        await connection.acknowledged()
        peer.send(publish(1), publish(2))
        await inbox.took(2)
        waiting = asyncio.create_task(connection.acknowledged())
        inbox.verdicts[0].set_result(None)
        await peer.acks(1)
        assert not waiting.done()
        inbox.verdicts[1].set_result(None)
        async with asyncio.timeout(PATIENCE):
            await waiting
        await peer.acks(1)
        peer.send(publish(3))
        await inbox.took(3)
        waiting = asyncio.create_task(connection.acknowledged())
        await peer.close()
        async with asyncio.timeout(PATIENCE):
            await waiting


async def test_a_paused_connection_takes_nothing_and_then_all_in_order(
    broker: ScriptedBroker, inbox: Inbox
) -> None:
    def take_one(messages: list[Message]) -> list[asyncio.Future[None] | None]:
        connection.pause_reading()
        return inbox.take(messages)

    # More than is read at once, so that each comes alone.
    payload = bytes(300_000)
    async with connected(broker, take_one) as (connection, peer):
        peer.send(*(publish(number, payload=payload) for number in range(1, 4)))
        for count in (1, 2, 3):
            await inbox.took(count)
            assert await peer.acks(1) == [count]
            assert len(inbox.messages) == count
            connection.resume_reading()


async def test_reading_pauses_while_too_many_bytes_are_unacknowledged(
    broker: ScriptedBroker, inbox: Inbox
) -> None:
    inbox.is_instant = False
    async with connected(broker, inbox.take, unacknowledged_bytes=1000) as (_, peer):
        peer.send(*(publish(number, payload=bytes(600)) for number in (1, 2, 3)))
        await inbox.took(2)
        inbox.verdicts[0].set_result(None)
        assert await peer.acks(1) == [1]
        await inbox.took(3)


async def test_a_broker_that_sends_more_than_was_agreed_is_not_read_until_there_is_room(
    broker: ScriptedBroker, inbox: Inbox
) -> None:
    """Mosquitto 2.0 does so while acknowledgements flow; leaving it would bring the same again."""
    inbox.is_instant = False
    payload = bytes(300_000)  # more than is read at once, so that each comes alone
    async with connected(broker, inbox.take, receive_maximum=2) as (_, peer):
        peer.send(*(publish(number, payload=payload) for number in range(1, 7)))
        await inbox.took(3)
        for number in (1, 2, 3):
            assert len(inbox.messages) == number + 2
            inbox.verdicts[number - 1].set_result(None)
            assert await peer.acks(1) == [number]
            await inbox.took(number + 3)
