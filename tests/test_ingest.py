"""The journey of a message: what belongs is committed, announced and told; everything else has a reason."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pingup import signing
from pingup.errors import Reason, Rejected, Unavailable
from pingup.model import Outcome, Presence, Sample
from pingup.services.agents import Registration
from pingup.services.live import MAX_SNAPSHOTS
from pingup.settings import LiveSamples, MqttSettings, Settings
from pingup.topics import SYS_REJECTS, Kind, Live, live
from tests.conftest import ManualClock
from tests.house import House, open_house, signed

OTHER_SECRET = "agent-b-secret-of-at-least-32-characters"


@pytest.fixture
async def a(house: House) -> House:
    await house.register()
    return house


async def reason(house: House, kind: Kind, payload: bytes, agent_id: str = "A") -> Reason:
    with pytest.raises(Rejected) as caught:
        await house.send(kind, payload, agent_id)
    return caught.value.reason


async def test_a_signed_sample_is_stored_and_shown_live(a: House) -> None:
    assert await a.send(Kind.METRICS, a.metrics(cpu=12.5, temp=20)) == Outcome(stored=1)
    assert [record.agent_id for record in a.telemetry.records] == ["A"]
    shown = [json.loads(payload) for payload in a.downlink.on(live("A", Live.METRICS))]
    assert shown == [
        {
            "agentId": "A",
            "timestamp": "2026-02-25T10:00:00Z",
            "cpu": 12.5,
            "ram": None,
            "disk": None,
            "latency": None,
            "status": "online",
            "temp": 20.0,
        }
    ]


async def test_a_repeat_is_success_and_shown_once(a: House) -> None:
    message = a.metrics(cpu=1)
    await a.send(Kind.METRICS, message)
    assert await a.send(Kind.METRICS, message) == Outcome(duplicates=1)
    assert len(a.downlink.on(live("A", Live.METRICS))) == 1


async def test_nothing_is_shown_before_it_is_committed(a: House) -> None:
    a.telemetry.gate.clear()
    future = a.services.ingest.submit(a.inbound(Kind.METRICS, a.metrics()))
    await a.telemetry.entered.wait()
    assert not future.done()
    assert not a.downlink.on(live("A", Live.METRICS))
    a.telemetry.gate.set()
    await future
    assert len(a.downlink.on(live("A", Live.METRICS))) == 1


async def test_live_snapshots_are_retained_at_most_once_a_second_and_never_older(a: House) -> None:
    retained = []
    for lapse, age in ((0, 0), (0.5, 0), (0.6, 0), (2, 60), (0, 0)):
        a.clock.advance(seconds=lapse)
        await a.send(Kind.METRICS, a.metrics(at=a.clock.now() - timedelta(seconds=age), cpu=lapse + age))
        retained.append(a.downlink.retained(live("A", Live.METRICS))[-1])
    assert retained == [True, False, True, False, True]


async def test_the_newest_of_a_burst_is_retained_a_second_later(a: House) -> None:
    topic = live("A", Live.METRICS)
    for number in range(3):
        a.clock.advance(milliseconds=100)
        await a.send(Kind.METRICS, a.metrics(cpu=number))
    assert a.downlink.retained(topic) == [True, False, False]
    a.services.live.keep_snapshots()
    assert json.loads(a.downlink.kept[topic])["cpu"] == 2
    a.downlink.kept.clear()
    a.services.live.keep_snapshots()
    assert a.downlink.kept == {}


async def test_what_nobody_watches_is_only_kept_once_a_second(a: House) -> None:
    topic = live("A", Live.METRICS)
    a.downlink.unwatched.add(topic)
    for number in range(3):
        a.clock.advance(milliseconds=100)
        await a.send(Kind.METRICS, a.metrics(cpu=number))
    assert a.downlink.retained(topic) == [True]
    a.services.live.keep_snapshots()
    assert json.loads(a.downlink.kept[topic])["cpu"] == 2


@pytest.mark.parametrize(
    ("mode", "shown"), [("watched", [0, 2]), ("always", [0, 1, 2]), ("sampled", [0, 2]), ("off", [])]
)
async def test_which_samples_are_shown_live_can_be_set(
    tmp_path: Path, clock: ManualClock, mode: str, shown: list[int]
) -> None:
    settings = Settings(mqtt=MqttSettings(live=LiveSamples(mode)))
    async with open_house(tmp_path, clock, settings) as house:
        await house.register()
        house.downlink.unwatched.add(live("A", Live.METRICS))
        for number in range(3):
            clock.advance(milliseconds=100)
            await house.send(Kind.METRICS, house.metrics(cpu=number))
        house.services.live.keep_snapshots()
        shown_now = house.downlink.on(live("A", Live.METRICS)) + list(house.downlink.kept.values())
        assert sorted({json.loads(text)["cpu"] for text in shown_now}) == shown
        await house.send(Kind.DISCOVERY, signed(house.message(discovery={"hosts": [], "duration": 1})))
        assert len(house.downlink.on(live("A", Live.DISCOVERY))) == 1


async def test_the_snapshots_of_a_very_large_fleet_take_turns(a: House, clock: ManualClock) -> None:
    fleet = [f"agent-{number}" for number in range(MAX_SNAPSHOTS + 500)]
    topics = {live(agent_id, Live.METRICS) for agent_id in fleet}
    a.downlink.unwatched |= topics

    def report(cpu: float) -> None:
        at = clock.now()
        a.services.live.stored([Sample(one, at, cpu, None, None, None, "ok") for one in fleet])

    report(1)
    assert sum(1 for topic, _, retain in a.downlink.published if topic in topics and retain) == MAX_SNAPSHOTS
    clock.advance(seconds=1)
    a.services.live.keep_snapshots()
    assert set(a.downlink.kept) == {live(one, Live.METRICS) for one in fleet[MAX_SNAPSHOTS:]}
    a.downlink.published.clear()
    report(2)
    for _ in range(2):
        clock.advance(seconds=1)
        a.services.live.keep_snapshots()
    newest = {topic: payload for topic, payload, _ in a.downlink.published} | a.downlink.kept
    assert {json.loads(newest[topic])["cpu"] for topic in topics} == {2}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"timestamp": "2026-02-25T10:05:01Z"}, Reason.FROM_THE_FUTURE),
        ({"timestamp": "2026-01-26T09:59:59Z"}, Reason.TOO_OLD),
        ({"timestamp": "9999-12-31T23:59:59Z"}, Reason.FROM_THE_FUTURE),
        ({"timestamp": "0001-01-01T00:00:00Z"}, Reason.TOO_OLD),
        ({"agentId": "B"}, Reason.WRONG_AGENT),
        ({"metrics": {"latency": 3_000_000_000}}, Reason.INVALID),
    ],
)
async def test_a_message_that_does_not_fit_is_refused_and_nothing_stored(
    a: House, change: dict[str, Any], expected: Reason
) -> None:
    message = {**a.message(metrics={"cpu": 1}, status="online"), **change}
    assert await reason(a, Kind.METRICS, signed(message)) is expected
    assert a.telemetry.records == []
    await a.send(Kind.METRICS, a.metrics())
    assert len(a.telemetry.records) == 1


@pytest.mark.parametrize("timestamp", ["2026-02-25T10:05:00Z", "2026-01-26T10:00:00Z"])
async def test_the_edges_of_the_time_window_are_inside(a: House, timestamp: str) -> None:
    message = {**a.message(metrics={"cpu": 1}, status="online"), "timestamp": timestamp}
    assert (await a.send(Kind.METRICS, signed(message))).stored == 1


async def test_unsigned_and_wrongly_signed_messages_are_refused(a: House) -> None:
    message = a.message(metrics={"cpu": 1}, status="online")
    assert await reason(a, Kind.METRICS, json.dumps(message).encode()) is Reason.NO_SIGNATURE
    assert await reason(a, Kind.METRICS, signed(message, OTHER_SECRET)) is Reason.BAD_SIGNATURE
    assert await reason(a, Kind.METRICS, a.metrics(), "nobody") is Reason.UNKNOWN_AGENT


async def test_the_signature_is_checked_before_anything_is_parsed(a: House) -> None:
    deep = b'{"x":' + b"[" * 2000 + b"]" * 2000 + b"}"
    assert await reason(a, Kind.METRICS, signing.sign(deep, OTHER_SECRET)) is Reason.BAD_SIGNATURE
    assert await reason(a, Kind.METRICS, signing.sign(deep, "x" + OTHER_SECRET)) is Reason.BAD_SIGNATURE


async def test_a_message_never_chooses_its_algorithm(house: House) -> None:
    signer = signing.Signer(signing.new_seed())
    wish = Registration(id="E", metadata={}, tags=(), public_key=signer.public_key)
    await house.services.agents.register(wish)
    body = json.dumps(house.message(agent_id="E", metrics={"cpu": 1}, status="online")).encode()
    with_hmac = signing.sign(body, signer.public_key)
    assert await reason(house, Kind.METRICS, with_hmac, "E") is Reason.BAD_SIGNATURE
    right = signing.attach(body, signer.signature(body))
    assert (await house.send(Kind.METRICS, right, "E")).stored == 1


async def test_refusals_are_counted_and_shown_with_their_reason(a: House) -> None:
    await reason(a, Kind.METRICS, b"{}")
    await reason(a, Kind.DISCOVERY, b"{}")
    assert a.services.rejects.counts == {Reason.NO_SIGNATURE: 2}
    shown = json.loads(a.downlink.on(SYS_REJECTS)[0])
    assert shown["agentId"] == "A"
    assert shown["topic"] == "pingup/v1/up/A/metrics"
    assert shown["reason"] == "no_signature"
    assert shown["at"] == "2026-02-25T10:00:00Z"


async def test_each_sample_of_a_batch_is_judged_by_itself(a: House) -> None:
    def item(timestamp: str, cpu: float) -> dict[str, Any]:
        return {"timestamp": timestamp, "metrics": {"cpu": cpu}, "status": "online"}

    samples = [
        item("2026-02-25T09:59:00Z", 1),
        item("2026-02-25T11:00:00Z", 2),
        item("2025-01-01T00:00:00Z", 3),
        item("2026-02-25T09:59:00Z", 1),
    ]
    outcome = await a.send(Kind.METRICS, signed(a.message(samples=samples)))
    assert (outcome.stored + outcome.duplicates, len(a.telemetry.records)) == (2, 2)
    assert [(one.index, one.reason) for one in outcome.rejected] == [
        (1, Reason.FROM_THE_FUTURE),
        (2, Reason.TOO_OLD),
    ]
    assert a.services.rejects.counts == {Reason.FROM_THE_FUTURE: 1, Reason.TOO_OLD: 1}


async def test_a_batch_without_one_acceptable_sample_is_refused(a: House) -> None:
    samples = [{"timestamp": "2025-01-01T00:00:00Z", "metrics": {"cpu": 1}, "status": "online"}]
    assert await reason(a, Kind.METRICS, signed(a.message(samples=samples))) is Reason.TOO_OLD


async def test_a_scan_is_stored_and_shown_live(a: House) -> None:
    hosts = [{"ip": "10.0.0.1", "latency": 1, "ports": [22]}]
    message = signed(a.message(discovery={"hosts": hosts, "duration": 12}))
    assert await a.send(Kind.DISCOVERY, message) == Outcome(stored=1)
    shown = json.loads(a.downlink.on(live("A", Live.DISCOVERY))[0])
    assert (shown["duration"], shown["hosts"]) == (12, [{"ip": "10.0.0.1", "latency": 1, "ports": [22]}])


async def test_any_verified_message_makes_an_agent_online(a: House) -> None:
    assert (await a.services.agents.get("A")).status is Presence.OFFLINE
    await a.send(Kind.METRICS, a.metrics())
    agent = await a.services.agents.get("A")
    assert (agent.status, agent.last_seen) == (Presence.ONLINE, a.clock.now())
    page = await a.services.agents.page(status=Presence.ONLINE, tag=None, query=None, limit=9, after=None)
    assert [one.id for one in page] == ["A"]


async def test_a_refused_message_makes_nobody_online(a: House) -> None:
    await reason(a, Kind.METRICS, signed(a.message(metrics={}, status="online"), OTHER_SECRET))
    assert (await a.services.agents.get("A")).status is Presence.OFFLINE


async def test_a_caller_is_told_when_the_store_is_down(a: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pingup.services.ingest.PATIENCE", 0.05)
    a.telemetry.down = "disk full"
    with pytest.raises(Unavailable):
        await a.services.ingest.receive(a.inbound(Kind.METRICS, a.metrics()))


async def test_a_clock_that_was_set_back_refuses_nobody_and_takes_nothing(a: House) -> None:
    await a.send(Kind.METRICS, a.metrics())
    message = a.metrics(cpu=2)
    a.clock.advance(hours=-2)
    with pytest.raises(Unavailable, match="clock"):
        await a.services.ingest.receive(a.inbound(Kind.METRICS, message))
    with pytest.raises(Unavailable, match="clock"):
        await a.send(Kind.METRICS, message)
    waiting = asyncio.ensure_future(a.services.ingest.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    assert a.services.rejects.counts == {}
    a.clock.advance(hours=2)
    await a.services.ingest.room()
    assert (await a.send(Kind.METRICS, message)).stored == 1


async def test_a_sample_ahead_within_the_window_does_not_stop_a_clock_that_is_right(a: House) -> None:
    await a.send(Kind.METRICS, a.metrics(at=a.clock.now() + timedelta(minutes=5)))
    assert a.services.timekeeper.problem is None
    assert (await a.send(Kind.METRICS, a.metrics())).stored == 1


async def test_what_an_agent_says_of_its_commands_is_kept_in_its_order(a: House) -> None:
    command = await a.services.commands.create("A", "ping", {})
    states = ["acknowledged", "running", "completed"]
    futures = [
        a.services.ingest.submit(
            a.inbound(Kind.RESULTS, signed(a.message(commandId=command.command_id, status=status)))
        )
        for status in states
    ]
    assert [await future for future in futures] == [Outcome(stored=1)] * 3
    kept = await a.services.commands.get(command.command_id)
    assert [change.status.value for change in kept.history][-3:] == states


async def test_what_is_stored_only_after_its_agent_was_removed_is_not_retained_again(a: House) -> None:
    a.telemetry.gate.clear()
    sample = a.services.ingest.submit(a.inbound(Kind.METRICS, a.metrics()))
    await a.services.agents.remove("A", purge=False)
    a.telemetry.gate.set()
    assert (await sample).stored == 1
    assert a.downlink.on(live("A", Live.METRICS)) == [b""]


async def test_senders_wait_while_too_many_messages_are_in_hand(
    a: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pingup.services.ingest.MAX_IN_HAND", 1)
    births = [
        a.services.ingest.submit(
            a.inbound(Kind.STATUS, signed(a.message(session=f"s{number}", status="online")))
        )
        for number in range(3)
    ]
    waiting = asyncio.ensure_future(a.services.ingest.room())
    await births[1]
    assert not waiting.done()
    async with asyncio.timeout(5):
        await waiting
    assert births[2].done()
