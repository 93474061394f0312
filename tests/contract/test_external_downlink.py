"""What the server says on a broker elsewhere, and what is said for it when it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mqtt5
import pytest

from pingup.brokers import external, watchers
from pingup.brokers.session import client
from pingup.brokers.watchers import UNASKED
from pingup.errors import Unavailable
from pingup.topics import SYS_STATUS, Live, down_commands, down_config, live
from tests.contract.external_rig import Link, a_mosquitto, device, hear, linked, until
from tests.mosquitto import Mosquitto
from tests.session.peer import Peer, ScriptedBroker

pytestmark = pytest.mark.mosquitto

COMMANDS = down_commands("A")


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "full_jitter", lambda *_: 0.01)


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with a_mosquitto(tmp_path / "mosquitto") as running:
        yield running


def soon(**lapse: float) -> datetime:
    return datetime.now(UTC) + timedelta(**lapse)


async def test_a_command_is_delivered_if_somebody_subscribes(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link:
        assert link.external.is_listening("A")
        assert not await link.external.deliver(COMMANDS, b"nobody", expires_at=soon(hours=1))
        async with device(mosquitto.port) as agent:
            await agent.subscribe(COMMANDS, qos=1)
            assert await link.external.deliver(COMMANDS, b"go", expires_at=soon(hours=1))
            async for message in agent.messages:
                assert (message.payload, message.qos, message.retain) == (b"go", 1, False)
                assert message.properties is not None
                left = getattr(message.properties, "MessageExpiryInterval")  # noqa: B009 - it is made at run time
                assert 3590 <= left <= 3600
                break


async def test_a_command_whose_time_is_over_is_not_sent(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link, device(mosquitto.port) as agent:
        await agent.subscribe(COMMANDS, qos=1)
        assert not await link.external.deliver(COMMANDS, b"late", expires_at=soon(seconds=0.5))
        assert await link.external.deliver(COMMANDS, b"in time", expires_at=soon(hours=1))
        assert [payload for _, payload, _ in await hear(agent, 1)] == [b"in time"]


async def test_without_a_connection_a_command_is_unavailable_and_says_why() -> None:
    async with ScriptedBroker.open() as broker:
        port = broker.port
    async with linked(port, is_up=False) as link:
        await link.fails("connection refused")
        assert not link.external.is_listening("A")
        with pytest.raises(Unavailable, match="connection refused"):
            await link.external.deliver(COMMANDS, b"go", expires_at=soon(hours=1))


async def test_a_broker_that_does_not_answer_a_command_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(external, "ANSWER_WITHIN", 0.05)
    async with ScriptedBroker.open() as broker, linked(broker.port, is_up=False, leave_within=0.05) as link:
        peer = await broker.peer()
        await peer.welcome()
        await peer.grant()
        await link.connects()
        with pytest.raises(Unavailable, match="has not answered within"):
            await link.external.deliver(COMMANDS, b"go", expires_at=soon(hours=1))


async def test_what_is_shown_live_is_seen_and_a_snapshot_retained(mosquitto: Mosquitto) -> None:
    shown, kept = live("A", Live.COMMANDS), live("A", Live.METRICS)
    async with linked(mosquitto.port) as link, device(mosquitto.port) as person:
        await person.subscribe("pingup/v1/live/#")
        link.external.emit(shown, b"1")
        link.external.emit(kept, b"2", retain=True)
        link.external.keep(kept, b"3")
        assert await hear(person, 3) == [(shown, b"1", False), (kept, b"2", False), (kept, b"3", False)]
        async with device(mosquitto.port, "late") as late:
            await late.subscribe("pingup/v1/live/#")
            assert await hear(late, 1) == [(kept, b"3", True)]


async def test_what_is_to_be_retained_while_the_broker_is_away_is_there_when_it_is_back(
    tmp_path: Path,
) -> None:
    presence, metrics = live("A", Live.PRESENCE), live("B", Live.METRICS)
    async with a_mosquitto(tmp_path / "m") as first:
        port = first.port
        async with linked(port) as link:
            link.external.emit(metrics, b"stale", retain=True)
    async with linked(port, is_up=False) as link:
        for payload in (b"1", b"2"):
            link.external.emit(presence, payload, retain=True)
        link.external.emit(live("A", Live.COMMANDS), b"nobody sees it")
        link.external.emit(metrics, b"", retain=True)
        assert not await link.external.deliver(down_config("A"), b"config", retain=True)
        async with a_mosquitto(tmp_path / "m", port=port):
            await link.connects()
            await until(lambda: not link.external._unsaid)
            # A command after it is answered after it, so all is there now.
            await link.external.deliver(COMMANDS, b"", expires_at=soon(hours=1))
            async with device(port) as person:
                await person.subscribe("pingup/v1/live/#")
                await person.subscribe("pingup/v1/down/#")
                assert await hear(person, 2) == [(presence, b"2", True), (down_config("A"), b"config", True)]


async def test_what_waits_to_be_retained_is_not_overtaken_by_what_is_newer(mosquitto: Mosquitto) -> None:
    presence = live("A", Live.PRESENCE)
    async with linked(mosquitto.port, is_up=False) as link:
        link.external.emit(presence, b"old", retain=True)
        # The very moment of the connect, before what waits is published.
        link.at_connect = lambda: link.external.emit(presence, b"new", retain=True)
        await link.connects()
        await until(lambda: not link.external._unsaid)
        await link.external.deliver(COMMANDS, b"", expires_at=soon(hours=1))
        async with device(mosquitto.port) as person:
            await person.subscribe("pingup/v1/live/#")
            assert await hear(person, 1) == [(presence, b"new", True)]


async def test_what_is_to_be_retained_while_the_connection_ends_is_said_with_the_next_one(
    mosquitto: Mosquitto,
) -> None:
    gone, left = live("A", Live.PRESENCE), live("B", Live.PRESENCE)
    async with linked(mosquitto.port) as link:
        link.external.emit(gone, b"online", retain=True)
        assert link.external._intake is not None
        link.external._intake.client.end("no room")
        link.external.emit(gone, b"", retain=True)
        link.external.emit(left, b"offline", retain=True)
        await link.connects(2)
        await until(lambda: not link.external._unsaid)
        await link.external.deliver(COMMANDS, b"", expires_at=soon(hours=1))
        async with device(mosquitto.port) as person:
            await person.subscribe("pingup/v1/live/#")
            assert await hear(person, 1) == [(left, b"offline", True)]


async def test_a_configuration_that_waits_for_a_slow_broker_gives_way_to_a_newer_one() -> None:
    config = down_config("A")
    heard: list[bytes] = []

    async def listen(peer: Peer) -> None:
        while (packet := await peer.expect(mqtt5.PublishPacket)).topic != COMMANDS:
            if packet.packet_id:
                peer.send(mqtt5.PubAckPacket(packet.packet_id))
            if packet.topic == config:
                heard.append(packet.payload)
        assert packet.packet_id
        peer.send(mqtt5.PubAckPacket(packet.packet_id))

    async with (
        ScriptedBroker.open() as broker,
        linked(broker.port, is_up=False, write_buffer=1024, leave_within=0.05) as link,
    ):
        for number in range(200):
            link.external.emit(live(f"agent-{number}", Live.METRICS), bytes(60_000), retain=True)
        await link.external.deliver(config, b"old", retain=True)
        peer = await broker.peer()
        await peer.welcome()
        await peer.grant()
        await link.connects()
        newer = asyncio.create_task(link.external.deliver(config, b"new", retain=True))
        await asyncio.sleep(0)
        assert link.external._unsaid  # the broker has not read that far
        listening = asyncio.create_task(listen(peer))
        assert await newer
        await until(lambda: not link.external._unsaid)
        assert await link.external.deliver(COMMANDS, b"", expires_at=soon(hours=1))
        await listening
    assert heard == [b"new"]


async def test_the_server_is_announced_at_every_connect_and_says_goodbye(mosquitto: Mosquitto) -> None:
    async with device(mosquitto.port) as person:
        await person.subscribe(SYS_STATUS, qos=1)
        async with linked(mosquitto.port) as link:
            assert await hear(person, 1) == [(SYS_STATUS, b"online", False)]
            _cut(link)
            # The will comes for a connection that is cut, and the birth with the next one.
            assert await hear(person, 2) == [(SYS_STATUS, b"offline", False), (SYS_STATUS, b"online", False)]
        assert await hear(person, 1) == [(SYS_STATUS, b"offline", False)]
    async with device(mosquitto.port) as late:
        await late.subscribe(SYS_STATUS, qos=1)
        assert await hear(late, 1) == [(SYS_STATUS, b"offline", True)]


async def test_the_edge_is_told_of_every_connection_and_the_session_is_kept(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link:
        _cut(link)
        await link.connects(2)
    assert link.sessions == [False, True]


async def test_waiting_commands_fail_with_the_connection() -> None:
    async with ScriptedBroker.open() as broker, linked(broker.port, is_up=False, leave_within=0.05) as link:
        peer = await broker.peer()
        await peer.welcome()
        await peer.grant()
        await link.connects()
        waiting = asyncio.create_task(link.external.deliver(COMMANDS, b"go", expires_at=soon(hours=1)))
        await peer.expect(mqtt5.PublishPacket)  # the birth
        await peer.expect(mqtt5.PublishPacket)
        await peer.close()
        with pytest.raises(Unavailable, match="closed the connection"):
            await waiting


def _cut(link: Link) -> None:
    connection = link.external._connection
    assert connection is not None
    connection.abort()


def _is_watched_at_full_speed(link: Link, topic: str) -> bool:
    for _ in range(UNASKED):
        link.external.emit(topic, b"0")
    return link.external.is_watched(topic)


async def test_a_sample_tells_now_and_then_whether_its_agent_is_watched(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "ASK_EVERY", 0.05)
    shown = live("A", Live.METRICS)
    async with linked(mosquitto.port) as link, device(mosquitto.port) as person:
        await until(lambda: not _is_watched_at_full_speed(link, shown))
        await person.subscribe("pingup/v1/live/#")
        await until(lambda: _is_watched_at_full_speed(link, shown))
        link.external.emit(shown, b"seen")
        while (await hear(person, 1))[0][1] != b"seen":
            pass
        await person.unsubscribe("pingup/v1/live/#")
        await until(lambda: not _is_watched_at_full_speed(link, shown))


async def test_questions_leave_half_of_what_a_broker_takes_at_a_time_to_commands_and_expire() -> None:
    async with ScriptedBroker.open() as broker, linked(broker.port, is_up=False, leave_within=0.05) as link:
        peer = await broker.peer()
        await peer.welcome(receive_max=4)
        await peer.grant()
        await link.connects()
        for number in range(4):
            link.external.emit(live(f"A{number}", Live.METRICS), b"1")
        asked = [await peer.expect(mqtt5.PublishPacket) for _ in range(5)][1:]  # the first is our birth
        assert [int(one.qos) for one in asked] == [1, 1, 0, 0]
        # Who is away keeps none of them.
        assert [one.message_expiry_interval for one in asked] == [2, 2, None, None]
        delivering = asyncio.create_task(link.external.deliver(COMMANDS, b"go"))
        assert (await peer.expect(mqtt5.PublishPacket)).topic == COMMANDS
        await peer.close()
        with pytest.raises(Unavailable):
            await delivering
