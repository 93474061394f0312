"""The broker hears from us, and a broker that we don't hear from is given up."""

from __future__ import annotations

import mqtt5
import pytest

from pingup.errors import Unavailable
from tests.session.peer import Inbox, ScriptedBroker, connected, publish


async def test_a_silent_broker_is_pinged_and_then_given_up(broker: ScriptedBroker) -> None:
    async with connected(broker, keep_alive=1) as (connection, peer):
        await peer.expect(mqtt5.PingReqPacket)
        with pytest.raises(Unavailable, match="the broker is silent"):
            await connection.until_lost()
        assert await peer.is_closed()


async def test_the_brokers_own_keep_alive_counts(broker: ScriptedBroker) -> None:
    async with connected(broker, keep_alive=600, terms={"server_keep_alive": 1}) as (connection, peer):
        for _ in range(4):  # 2 s: a silent one would be given up after 1.5
            await peer.expect(mqtt5.PingReqPacket)
            peer.send(mqtt5.PingRespPacket())
        assert connection.send("a", b"")
        with pytest.raises(Unavailable, match="the broker is silent"):
            await connection.until_lost()


async def test_who_is_not_read_is_not_called_silent_and_still_pinged(
    broker: ScriptedBroker, inbox: Inbox
) -> None:
    async with connected(broker, inbox.take, keep_alive=1) as (connection, peer):
        connection.pause_reading()
        peer.send(publish(1))
        for _ in range(5):
            await peer.expect(mqtt5.PingReqPacket)
        assert not inbox.messages
        connection.resume_reading()
        await inbox.took(1)
        assert await peer.acks(1) == [1]


async def test_without_keep_alive_nobody_is_pinged(broker: ScriptedBroker) -> None:
    async with connected(broker, keep_alive=1, terms={"server_keep_alive": 0}) as (connection, peer):
        connection.send("a", b"")
        await peer.expect(mqtt5.PublishPacket)
        assert connection.line._pulse._timer is None
