"""Who is there: births and wills count only for their own session, silence counts for everybody."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pingup.model import Outcome, Presence
from pingup.services.presence import Presence as Service
from pingup.topics import Kind, Live, live
from tests.conftest import ManualClock
from tests.house import House, open_house, signed

ONLINE, OFFLINE = Presence.ONLINE, Presence.OFFLINE


@pytest.fixture
async def a(house: House) -> House:
    await house.register()
    return house


async def say(
    house: House, status: str, session: str, at: datetime | None = None, interval: float | None = None
) -> Outcome:
    members: dict[str, Any] = {"session": session, "status": status}
    if interval is not None:
        members["interval"] = interval
    return await house.send(Kind.STATUS, signed(house.message(at=at, **members)))


async def state(house: House) -> Presence:
    return (await house.services.agents.get("A")).status


def shown(house: House) -> list[str]:
    return [json.loads(payload)["status"] for payload in house.downlink.on(live("A", Live.PRESENCE))]


def tick(service: Service) -> None:
    service._notice_silence()


async def test_a_birth_makes_online_and_the_will_of_its_session_offline(a: House) -> None:
    await say(a, "online", "s1")
    assert await state(a) is ONLINE
    await say(a, "offline", "s1")
    assert await state(a) is OFFLINE
    assert shown(a) == ["offline", "online", "offline"]
    assert set(a.downlink.retained(live("A", Live.PRESENCE))) == {True}


async def test_what_came_before_the_will_of_an_agent_that_is_offline_does_not_bring_it_back(a: House) -> None:
    before = a.clock.now()
    a.clock.advance(seconds=1)
    await say(a, "offline", "s1")
    a.services.presence.heard("A", before)
    assert await state(a) is OFFLINE


async def test_where_everybody_stands_can_be_shown_to_a_broker_that_forgot(a: House) -> None:
    await say(a, "online", "s1")
    seen = len(shown(a))
    a.services.presence.show()
    assert shown(a)[seen:] == ["online"]


async def test_the_will_of_an_older_session_ends_nothing(a: House) -> None:
    await say(a, "online", "s1")
    a.clock.advance(seconds=5)
    await say(a, "online", "s2")
    assert await say(a, "offline", "s1", a.clock.now() - timedelta(seconds=5)) == Outcome(duplicates=1)
    assert await state(a) is ONLINE


async def test_a_replayed_birth_wakes_nobody(a: House) -> None:
    born = a.clock.now()
    await say(a, "online", "s1")
    await say(a, "offline", "s1")
    a.clock.advance(seconds=60)
    assert await say(a, "online", "s1", born) == Outcome(duplicates=1)
    assert await state(a) is OFFLINE


async def test_a_will_signed_long_ago_still_counts_for_its_session(a: House) -> None:
    born = a.clock.now()
    await say(a, "online", "s1")
    a.clock.advance(days=60)
    await say(a, "offline", "s1", born)
    assert await state(a) is OFFLINE


async def test_silence_of_three_intervals_means_offline(a: House) -> None:
    await say(a, "online", "s1", interval=10)
    a.clock.advance(seconds=30)
    tick(a.services.presence)
    assert await state(a) is ONLINE
    a.clock.advance(seconds=1)
    tick(a.services.presence)
    assert await state(a) is OFFLINE


async def test_an_agent_that_names_no_interval_has_five_minutes(a: House) -> None:
    await a.send(Kind.METRICS, a.metrics())
    a.clock.advance(minutes=5)
    tick(a.services.presence)
    assert await state(a) is ONLINE
    a.clock.advance(seconds=1)
    tick(a.services.presence)
    assert await state(a) is OFFLINE


async def test_presence_survives_a_restart_and_silence_counts_anew(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with open_house(tmp_path, clock) as first:
        await first.register()
        await first.send(Kind.METRICS, first.metrics())
        await first.services.presence.flush()
        seen = clock.now()
    clock.advance(hours=1)
    async with open_house(tmp_path, clock) as second:
        tick(second.services.presence)
        agent = await second.services.agents.get("A")
        assert (agent.status, agent.last_seen) == (ONLINE, seen)


async def test_an_agent_that_stays_online_makes_no_noise(a: House) -> None:
    for _ in range(5):
        a.clock.advance(seconds=10)
        await a.send(Kind.METRICS, a.metrics())
    assert shown(a) == ["offline", "online"]


async def test_what_is_stored_only_after_the_will_does_not_bring_the_agent_back(a: House) -> None:
    await say(a, "online", "s1")
    a.clock.advance(seconds=1)
    a.telemetry.gate.clear()
    sample = a.services.ingest.submit(a.inbound(Kind.METRICS, a.metrics()))
    received = a.clock.now()
    a.clock.advance(seconds=1)
    await say(a, "offline", "s1")
    a.telemetry.gate.set()
    await sample
    assert await state(a) is OFFLINE
    assert (await a.services.agents.get("A")).last_seen == received
    await a.send(Kind.METRICS, a.metrics())
    assert await state(a) is ONLINE
