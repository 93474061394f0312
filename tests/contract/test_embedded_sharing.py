"""Telemetry that nobody watches: its messages share one verdict, and each is acknowledged like any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pingup.errors import Unavailable
from pingup.model import Inbound, Scope
from tests.conftest import ManualClock
from tests.contract.broker_rig import Peer, Rig, metrics, open_rig, status
from tests.contract.mqtt_packets import PUBACK, PUBREC, number, publish


class SharingIngest:
    """What the real ingest does with telemetry: one verdict for all that is to be committed together."""

    def __init__(self, rig: Rig) -> None:
        self.verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refuses = False
        self._rig = rig

    def take(self, inbound: Inbound) -> asyncio.Future[None] | None:
        self._rig.ingest.submit(inbound)
        return None if self.refuses else self.verdict

    def commit(self) -> None:
        """Commit what was taken; what comes then has another verdict."""
        self.verdict.set_result(None)
        self.verdict = asyncio.get_running_loop().create_future()

    def fail(self) -> None:
        self.verdict.set_exception(Unavailable("the store is down"))


@pytest.fixture
async def sharing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SharingIngest]:
    rig.ingest.is_instant = False
    ingest = SharingIngest(rig)
    monkeypatch.setattr(rig.ingest, "take", ingest.take)
    yield ingest
    if not ingest.verdict.done():
        ingest.verdict.set_result(None)


async def _acknowledged(peer: Peer, count: int) -> list[int]:
    return [number(await peer.expect(PUBACK)) for _ in range(count)]


async def test_messages_that_share_a_verdict_are_each_acknowledged_after_it(
    rig: Rig, sharing: SharingIngest
) -> None:
    agents = [await rig.agent("A"), await rig.agent("B")]
    for agent_id, agent in zip("AB", agents, strict=True):
        agent.send(*(publish(metrics(agent_id), b"x", packet_id=index) for index in (3, 2, 1)))
    await rig.ingest.took(6)
    for agent in agents:
        assert await agent.is_quiet()
    sharing.commit()
    for agent in agents:
        assert await _acknowledged(agent, 3) == [3, 2, 1]


async def test_none_overtakes_a_message_of_another_verdict(rig: Rig, sharing: SharingIngest) -> None:
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"1", packet_id=1), publish(status("A"), b"2", packet_id=2))
    await rig.ingest.took(2)
    agent.send(*(publish(metrics("A"), b"x", packet_id=index) for index in (3, 4)))
    await rig.ingest.took(4)
    sharing.commit()
    assert await _acknowledged(agent, 1) == [1]
    assert await agent.is_quiet()
    rig.ingest.commit(1)
    assert await _acknowledged(agent, 3) == [2, 3, 4]


async def test_messages_of_verdict_after_verdict_are_all_acknowledged(
    rig: Rig, sharing: SharingIngest
) -> None:
    agent = await rig.agent("A")
    for index in range(1, 4):
        agent.send(*(publish(metrics("A"), b"x", packet_id=2 * index + more) for more in (0, 1)))
        await rig.ingest.took(2 * index)
        sharing.commit()
        assert await _acknowledged(agent, 2) == [2 * index, 2 * index + 1]


async def test_a_qos_2_message_is_received_after_its_shared_verdict(rig: Rig, sharing: SharingIngest) -> None:
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"x", qos=2, packet_id=5))
    await rig.ingest.took(1)
    assert await agent.is_quiet()
    sharing.commit()
    assert number(await agent.expect(PUBREC)) == 5


async def test_what_could_not_be_stored_together_ends_every_connection_unacknowledged(
    rig: Rig, sharing: SharingIngest
) -> None:
    agents = [await rig.agent("A"), await rig.agent("B")]
    for agent_id, agent in zip("AB", agents, strict=True):
        agent.send(publish(metrics(agent_id), b"x", packet_id=1))
    await rig.ingest.took(2)
    sharing.fail()
    for agent in agents:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await agent.read()


async def test_a_message_that_is_refused_at_once_is_acknowledged(rig: Rig, sharing: SharingIngest) -> None:
    sharing.refuses = True
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"bad", packet_id=7))
    assert await _acknowledged(agent, 1) == [7]


async def test_telemetry_that_somebody_watches_has_a_verdict_of_its_own(
    rig: Rig, sharing: SharingIngest
) -> None:
    admin = await rig.operator("admin", Scope.ADMIN)
    await admin.subscribe("pingup/v1/up/#")
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"bad", packet_id=1), publish(metrics("A"), b"good", packet_id=2))
    await rig.ingest.took(2)
    rig.ingest.reject(0)
    rig.ingest.commit(1)
    assert await _acknowledged(agent, 2) == [1, 2]
    assert (await admin.arrival()).payload == b"good"


async def test_who_begins_to_watch_before_the_commit_gets_what_comes_from_then_on(
    rig: Rig, sharing: SharingIngest
) -> None:
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"before", packet_id=1))
    await rig.ingest.took(1)
    admin = await rig.operator("admin", Scope.ADMIN)
    await admin.subscribe("pingup/v1/up/#")
    agent.send(publish(metrics("A"), b"after", packet_id=2))
    await rig.ingest.took(2)
    rig.ingest.commit(1)
    sharing.commit()
    assert await _acknowledged(agent, 2) == [1, 2]
    assert (await admin.arrival()).payload == b"after"


async def test_messages_that_had_to_wait_for_room_are_received_when_there_was_some(
    clock: ManualClock,
) -> None:
    """The server may have waited for its own clock to be right."""
    async with open_rig(clock=clock) as rig:
        agent = await rig.agent("A")
        rig.ingest.space.clear()
        agent.send(*(publish(metrics("A"), b"x", packet_id=number) for number in (1, 2, 3)))
        other = await rig.agent("B")
        assert await other.is_quiet()
        assert not rig.ingest.taken
        clock.advance(hours=1)
        rig.ingest.space.set()
        assert await _acknowledged(agent, 3) == [1, 2, 3]
        assert {inbound.received_at for inbound in rig.ingest.taken} == {clock.now()}


async def test_topics_that_an_agent_may_not_publish_on_take_no_memory(rig: Rig) -> None:
    agent = await rig.agent("A")
    denied = [publish(f"pingup/v1/up/A/{name}", b"x", packet_id=name) for name in range(1, 50)]
    agent.send(*denied, publish(metrics("A"), b"x", packet_id=50))
    assert await _acknowledged(agent, 50) == list(range(1, 51))
    assert rig.broker._broker is not None
    _, handler = rig.broker._broker._entry("A")
    assert handler is not None
    assert set(handler._kinds) == {metrics("A")}
