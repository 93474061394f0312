"""A session is kept up: subscribed at every connect, and its problems told in words, once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mqtt5
import pytest

from pingup.brokers.session import Client, Connection, Message, Subscription, client
from pingup.crew import Crew
from tests.session.peer import PATIENCE, Inbox, Peer, ScriptedBroker, publish

SUBSCRIPTION = Subscription("up/#", retained_once=True)


class Keeper:
    """A client that runs, and what it told."""

    def __init__(self, broker: ScriptedBroker, **options: Any) -> None:
        self.inbox = Inbox()
        self.connections: list[Connection] = []
        self.waits: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._news = asyncio.Event()
        self.client = Client(
            lambda: broker.options(**options),
            (SUBSCRIPTION,),
            on_messages=self.take,
            on_connected=self._connected,
            may_connect=self._may_connect,
        )

    def take(self, messages: list[Message]) -> list[asyncio.Future[None] | None]:
        return self.inbox.take(messages)

    def _connected(self, connection: Connection) -> None:
        self.connections.append(connection)
        self._news.set()

    async def _may_connect(self) -> None:
        await self.gate.wait()

    def wait(self, first: float, longest: float, attempt: int) -> float:
        assert first < longest
        self.waits.append(attempt)
        return 0.001

    async def connects(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.connections) < count:
                self._news.clear()
                await self._news.wait()

    async def has(self, words: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while words not in (self.client.problem or ""):  # noqa: ASYNC110 - nobody tells of a problem
                await asyncio.sleep(0.001)


@asynccontextmanager
async def keeping(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> AsyncIterator[Keeper]:
    keeper = Keeper(broker, **options)
    monkeypatch.setattr(client, "full_jitter", keeper.wait)
    async with Crew.open() as crew:
        crew.create_task(keeper.client.run())
        yield keeper


async def welcome(broker: ScriptedBroker, **terms: Any) -> tuple[Peer, mqtt5.SubscribePacket]:
    peer = await broker.peer()
    await peer.welcome(**terms)
    return peer, await peer.grant()


async def test_it_subscribes_at_every_connect_and_tells_of_it(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(broker, monkeypatch) as keeper:
        for count in (1, 2, 3):
            peer, asked = await welcome(broker, session_present=count > 1)
            (topic_filter,) = asked.topic_filters
            assert topic_filter.pattern == "up/#"
            assert topic_filter.retain_handling == mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
            await keeper.connects(count)
            assert keeper.client.problem is None
            assert keeper.client.connection is keeper.connections[-1]
            assert keeper.connections[-1].terms.session_present is (count > 1)
            await peer.close()
            await keeper.has("closed the connection")
            assert keeper.client.connection is None


async def test_what_waited_in_the_session_is_taken_before_the_subscription_is_granted(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(broker, monkeypatch) as keeper:
        peer = await broker.peer()
        await peer.welcome(session_present=True)
        await peer.expect(mqtt5.SubscribePacket)
        peer.send(publish(1))
        assert await peer.acks(1) == [1]
        assert keeper.client.connection is None
        keeper.client.pause_reading()
        peer.send(publish(2))
        keeper.client.resume_reading()
        assert await peer.acks(1) == [2]


async def test_a_problem_is_logged_when_it_changes_and_not_at_every_attempt(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    codes = mqtt5.ConnAckReasonCode
    async with keeping(broker, monkeypatch) as keeper:
        for code in (codes.BANNED, codes.BANNED, codes.BANNED, codes.QUOTA_EXCEEDED, codes.BANNED):
            peer = await broker.peer()
            await peer.welcome(reason_code=code)
        await welcome(broker)
        await keeper.connects(1)
        told = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
        assert told == [
            "this client is banned",
            "quota exceeded",
            "this client is banned",
            f"connected to the broker at 127.0.0.1:{broker.port}",
        ]
        assert keeper.waits == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("stable", "last"), [(0.0, 0), (60.0, 2)])
async def test_only_a_connection_that_lasted_resets_the_wait(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, stable: float, last: int
) -> None:
    async with keeping(broker, monkeypatch) as keeper:
        for _ in range(2):
            peer = await broker.peer()
            await peer.welcome(reason_code=mqtt5.ConnAckReasonCode.BANNED)
        peer = await broker.peer()
        monkeypatch.setattr(client, "_STABLE", stable)
        await peer.welcome()
        await peer.grant()
        await keeper.connects(1)
        await peer.close()
        await broker.peer()
        assert keeper.waits == [0, 1, last]


async def test_a_refused_subscription_is_a_problem(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(broker, monkeypatch) as keeper:
        peer = await broker.peer()
        await peer.welcome()
        await peer.grant(mqtt5.SubAckReasonCode.NOT_AUTHORIZED)
        await keeper.has("refuses to subscribe up/#: not authorised")
        assert keeper.connections == []


async def test_it_connects_only_when_it_may(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    async with keeping(broker, monkeypatch) as keeper:
        peer, _ = await welcome(broker)
        await keeper.connects(1)
        keeper.gate.clear()
        keeper.client.end("no room")
        goodbye = await peer.expect(mqtt5.DisconnectPacket)
        assert goodbye.reason_code == mqtt5.DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE
        await keeper.has("no room")
        assert keeper.client.connection is None
        keeper.gate.set()
        await welcome(broker)
        await keeper.connects(2)


def _say_bye(connection: Connection) -> None:
    connection.send("bye", b"")


async def test_leaving_acknowledges_says_farewell_and_comes_to_an_end(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(broker, monkeypatch) as keeper:
        peer, _ = await welcome(broker)
        await keeper.connects(1)
        keeper.inbox.is_instant = False
        peer.send(publish(1))
        await keeper.inbox.took(1)
        leaving = asyncio.create_task(keeper.client.leave(_say_bye, 5.0))
        await asyncio.sleep(0)
        keeper.client.resume_reading()
        peer.send(publish(2))
        keeper.inbox.verdicts[0].set_result(None)
        assert await peer.acks(1) == [1]
        assert (await peer.expect(mqtt5.PublishPacket)).topic == "bye"
        goodbye = await peer.expect(mqtt5.DisconnectPacket)
        assert goodbye.reason_code == mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION
        await peer.close()
        await leaving
        assert len(keeper.inbox.messages) == 1
        assert keeper.waits in ([], [0])


async def test_a_bug_ends_it_loudly(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    keeper = Keeper(broker)

    def broken(_: list[Message]) -> list[None]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(keeper, "take", broken)
    keeper.client._on_messages = broken
    running = asyncio.create_task(keeper.client.run())
    peer, _ = await welcome(broker)
    await keeper.connects(1)
    peer.send(publish(1))
    with pytest.raises(RuntimeError, match="a bug"):
        await running


async def test_a_cancelled_client_leaves_no_connection(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(broker, monkeypatch) as keeper:
        peer, _ = await welcome(broker)
        await keeper.connects(1)
    assert await peer.is_closed()


async def test_dropped_messages_are_told_at_the_end_of_the_connection(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with keeping(broker, monkeypatch) as keeper:
        await welcome(broker, max_packet_size=100)
        await keeper.connects(1)
        assert not keeper.connections[0].send("a", bytes(200))
    assert "1 QoS 0 messages were dropped" in caplog.text
