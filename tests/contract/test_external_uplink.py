"""What agents publish on a broker elsewhere: nothing is acknowledged before it is committed, nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pingup.brokers import intake
from pingup.brokers.session import client
from pingup.errors import Reason
from pingup.topics import Kind, up
from tests.contract.external_rig import a_mosquitto, device, flood, linked, publish, still_queued, until
from tests.mosquitto import Mosquitto

pytestmark = pytest.mark.mosquitto

METRICS = up("A", Kind.METRICS)
STATUS = up("A", Kind.STATUS)


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "full_jitter", lambda *_: 0.01)


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with a_mosquitto(tmp_path / "mosquitto") as running:
        yield running


def samples(*numbers: int) -> list[tuple[str, bytes]]:
    return [(METRICS, str(number).encode()) for number in numbers]


async def test_a_message_comes_in_as_what_it_is(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link:
        await publish(mosquitto.port, (up("B", Kind.RESULTS), b"done"))
        await link.ingest.took(1)
        (inbound,) = link.ingest.taken
        assert (inbound.agent_id, inbound.kind, inbound.payload) == ("B", Kind.RESULTS, b"done")
        assert inbound.source == up("B", Kind.RESULTS)


async def test_a_birth_that_is_cleared_away_is_no_message(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link:
        await publish(mosquitto.port, (STATUS, b""), retain=True)
        await publish(mosquitto.port, (METRICS, b""))
        await link.ingest.took(1)
        assert [inbound.kind for inbound in link.ingest.taken] == [Kind.METRICS]
    assert await still_queued(mosquitto.port) == []


async def test_what_is_committed_when_the_server_stops_is_acknowledged_and_the_rest_comes_again(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "LEAVE_WITHIN", 0.2)
    async with linked(mosquitto.port) as link:
        link.ingest.is_instant = False
        await publish(mosquitto.port, *samples(1, 2, 3, 4))
        await link.ingest.took(4)
        for index in (3, 1, 0):
            link.ingest.commit(index)
        link.ingest.release = lambda: None  # type: ignore[method-assign] # number 3 is never committed
    # The fourth is committed, but acknowledged in order: it comes again, and is stored once.
    assert await still_queued(mosquitto.port) == [b"3", b"4"]


async def test_a_stop_leaves_nothing_of_what_was_committed(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link:
        await publish(mosquitto.port, *samples(*range(100)))
        await link.ingest.took(100)
    assert await still_queued(mosquitto.port) == []


async def test_a_stop_amid_a_flood_loses_no_acknowledgement(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link:
        link.ingest.space.clear()
        await flood(mosquitto.port, METRICS, [b"%d " % number + bytes(2000) for number in range(900)])
        await link.ingest.took(1)
        link.ingest.release = lambda: None  # type: ignore[method-assign] # there is no room until the end
    left = await still_queued(mosquitto.port)
    # What one read of the socket brought was taken together.
    assert [int(payload.split()[0]) for payload in left] == list(range(len(link.ingest.taken), 900))
    assert len(left) > 800


async def test_a_stop_waits_for_what_is_being_committed(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link:
        link.ingest.is_instant = False
        await publish(mosquitto.port, *samples(1, 2))
        await link.ingest.took(2)
        asyncio.get_running_loop().call_later(0.05, link.ingest.release)
        link.ingest.release = lambda: None  # type: ignore[method-assign]
    assert await still_queued(mosquitto.port) == []


async def test_a_refused_message_is_acknowledged_and_does_not_come_again(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link:
        link.ingest.is_instant = False
        await publish(mosquitto.port, *samples(1))
        await link.ingest.took(1)
        link.ingest.reject()
    assert await still_queued(mosquitto.port) == []


async def test_what_could_not_be_stored_comes_again_by_itself_in_order(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link:
        link.ingest.is_instant = False
        await publish(mosquitto.port, *samples(1, 2, 3))
        await link.ingest.took(3)
        link.ingest.commit(0)
        link.ingest.fail(1)
        link.ingest.is_instant = True
        await link.connects(2)
        await link.ingest.took(5)
        assert [inbound.payload for inbound in link.ingest.taken[3:]] == [b"2", b"3"]
        assert link.sessions == [False, True]
    assert await still_queued(mosquitto.port) == []


async def test_a_report_that_the_registry_cannot_take_now_holds_up_no_telemetry(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "full_jitter", lambda *_: 0.01)
    async with linked(mosquitto.port) as link:
        link.ingest.is_instant = False
        await publish(mosquitto.port, (up("A", Kind.CONFIG), b"report"), *samples(1, 2))
        await link.ingest.took(3)
        link.ingest.commit(1)
        link.ingest.commit(2)
        link.ingest.fail(0)
        await link.ingest.took(4)
        link.ingest.fail(3)
        await link.ingest.took(5)
        assert [inbound.payload for inbound in link.ingest.taken] == [
            b"report",
            b"1",
            b"2",
            b"report",
            b"report",
        ]
        link.ingest.commit(4)
        assert len(link.sessions) == 1
    assert await still_queued(mosquitto.port) == []


async def test_a_report_that_was_waiting_for_the_registry_comes_again_with_the_next_connection(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "full_jitter", lambda *_: 3600.0)
    async with linked(mosquitto.port) as link:
        link.ingest.is_instant = False
        await publish(mosquitto.port, (up("A", Kind.CONFIG), b"report"))
        await link.ingest.took(1)
        link.ingest.fail(0)
        assert link.external._intake is not None
        link.external._intake.client.end("cut")
        await link.ingest.took(2)
        await link.connects(2)
        link.ingest.commit(1)
    assert await still_queued(mosquitto.port) == []


async def test_what_was_published_while_the_server_was_away_comes_afterwards(
    mosquitto: Mosquitto,
) -> None:
    async with linked(mosquitto.port):
        pass
    await publish(mosquitto.port, *samples(*range(50)))
    async with linked(mosquitto.port) as link:
        await link.ingest.took(50)
        assert [int(inbound.payload) for inbound in link.ingest.taken] == list(range(50))


async def test_a_restarted_broker_is_found_again_and_has_kept_what_waits(tmp_path: Path) -> None:
    async with a_mosquitto(tmp_path / "m") as first:
        port = first.port
    async with linked(port, is_up=False) as link:
        async with a_mosquitto(tmp_path / "m", port=port):
            await link.connects(1)
            link.ingest.is_instant = False
            await publish(port, *samples(1))
            await link.ingest.took(1)
        await until(lambda: link.external.problem is not None)
        link.ingest.is_instant = True
        async with a_mosquitto(tmp_path / "m", port=port):
            await link.connects(2)
            await link.ingest.took(2)
            assert [inbound.payload for inbound in link.ingest.taken] == [b"1", b"1"]
            assert link.sessions == [False, True]


async def test_a_retained_birth_comes_to_a_new_session_and_not_to_a_kept_one(mosquitto: Mosquitto) -> None:
    await publish(mosquitto.port, (STATUS, b"born"), retain=True)
    async with linked(mosquitto.port) as link:
        await link.ingest.took(1)
    async with linked(mosquitto.port) as link:
        await publish(mosquitto.port, *samples(1))
        await link.ingest.took(1)
        assert [inbound.payload for inbound in link.ingest.taken] == [b"1"]


async def test_what_the_server_clears_does_not_come_back_to_it(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link:
        link.external.emit(STATUS, b"", retain=True)
        await publish(mosquitto.port, *samples(1))
        await link.ingest.took(1)
        assert [inbound.payload for inbound in link.ingest.taken] == [b"1"]


@pytest.mark.parametrize(
    "topic", ["pingup/v1/up/A/nonsense", "pingup/v1/up/A", "pingup/v1/up", "pingup/v1/up/a b/x"]
)
async def test_a_topic_that_is_none_of_ours_is_counted_and_acknowledged(
    mosquitto: Mosquitto, topic: str
) -> None:
    async with linked(mosquitto.port) as link:
        await publish(mosquitto.port, (topic, b"x"), *samples(1))
        await link.ingest.took(1)
        assert [(refusal.source, refusal.reason) for refusal in link.rejects.noted] == [
            (topic, Reason.UNKNOWN_KIND)
        ]
    assert await still_queued(mosquitto.port) == []


async def test_reading_stops_without_room_and_goes_on_by_itself(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port) as link:
        link.ingest.space.clear()
        await publish(mosquitto.port, *samples(1, 2, 3))
        await link.ingest.took(1)
        await _round_trip(mosquitto.port)
        assert len(link.ingest.taken) == 1
        link.ingest.space.set()
        await link.ingest.took(3)
        assert link.sessions == [False]


async def test_a_server_that_stays_full_gives_the_connection_back_until_it_has_room(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "FULL_FOR", 0.05)
    async with linked(mosquitto.port) as link:
        link.ingest.space.clear()
        await publish(mosquitto.port, *samples(1, 2))
        await link.fails("no room for more messages")
        assert len(link.ingest.taken) == 1
        link.ingest.space.set()
        await link.connects(2)
        await link.ingest.took(2)
        assert link.external.problem is None
        assert [inbound.payload for inbound in link.ingest.taken] == [b"1", b"2"]


async def test_a_server_that_starts_full_does_not_connect(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto.port):
        pass
    await publish(mosquitto.port, *samples(1))
    async with linked(mosquitto.port, is_up=False, is_full=True) as link:
        assert await still_queued(mosquitto.port) == [b"1"]
        assert link.sessions == []
        link.ingest.space.set()
        await link.ingest.took(1)


async def _round_trip(port: int) -> None:
    """By then the broker has sent on what was published before."""
    async with device(port, "prober") as client:
        await client.subscribe("probe", qos=1)
        await client.publish("probe", b"", qos=1)
        async for _ in client.messages:
            return
