"""Receipts: an agent learns what it need not keep, after the commit, and never for what was forged."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from nacl.signing import VerifyKey

from pingup import codec, signing
from pingup.errors import Reason, Rejected, Unavailable
from pingup.model import Fate, Outcome
from pingup.services.agents import Registration
from pingup.topics import Kind, down_receipts
from tests.house import SECRET, House, signed

OTHER_SECRET = "agent-b-secret-of-at-least-32-characters"
TOO_DEEP = {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}}


@pytest.fixture
async def a(house: House) -> House:
    await house.register()
    return house


def numbered(house: House, seq: int, stream: str = "s", **members: Any) -> bytes:
    sample = {"metrics": {"cpu": seq}, "status": "online", "stream": stream, "seq": seq}
    return signed(house.message(**{**sample, **members}))


async def receipts(house: House, agent_id: str = "A") -> list[tuple[str, int]]:
    """Have all receipts sent that are owed; stream and number of each."""
    topic = down_receipts(agent_id)
    before = len(house.downlink.on(topic))
    while house.services.receipts._owed:
        await house.services.receipts.send()
    sent = [json.loads(payload) for payload in house.downlink.on(topic)[before:]]
    return [(one["stream"], one["seq"]) for one in sent]


async def refuse(house: House, payload: bytes, kind: Kind = Kind.METRICS, agent_id: str = "A") -> Reason:
    """Send what is refused; return once the batcher has nothing to do."""
    with pytest.raises(Rejected) as caught:
        await house.send(kind, payload, agent_id)
    await house.send(Kind.METRICS, house.metrics(at=house.clock.now() - timedelta(seconds=1)))
    return caught.value.reason


# --- what they say ---------------------------------------------------------------------------------


async def test_a_receipt_says_up_to_where_all_is_stored_and_is_signed_with_the_agents_secret(
    a: House,
) -> None:
    for seq in (1, 2, 4):
        await a.send(Kind.METRICS, numbered(a, seq))
    assert await receipts(a) == [("s", 2)]
    (message,) = a.downlink.on(down_receipts("A"))
    key = a.services.keyring.key_of("A")
    assert key is not None
    signing.verify(message, key)
    content = json.loads(message)
    del content["signature"]
    assert content == {"agentId": "A", "stream": "s", "seq": 2, "updatedAt": "2026-02-25T10:00:00Z"}
    assert a.downlink.retained(down_receipts("A")) == [False]


async def test_an_ed25519_agent_gets_receipts_signed_with_the_servers_key(house: House) -> None:
    signer = signing.Signer(signing.new_seed())
    await house.services.agents.register(
        Registration(id="E", metadata={}, tags=(), public_key=signer.public_key)
    )
    body = json.dumps(
        house.message(agent_id="E", metrics={"cpu": 1}, status="online", stream="s", seq=1)
    ).encode()
    await house.send(Kind.METRICS, signing.attach(body, signer.signature(body)), "E")
    assert await receipts(house, "E") == [("s", 1)]
    text, signature = signing.cut(house.downlink.on(down_receipts("E"))[0])
    VerifyKey(signing.read_public_key(house.signer.public_key)).verify(text, base64.b64decode(signature))


async def test_batches_and_scans_are_numbered_like_samples(a: House) -> None:
    samples = [{"timestamp": "2026-02-25T09:00:00Z", "metrics": {"cpu": 1}, "status": "online"}]
    await a.send(Kind.METRICS, signed(a.message(samples=samples, stream="s", seq=1)))
    scan = {"hosts": [], "duration": 1}
    await a.send(Kind.DISCOVERY, signed(a.message(discovery=scan, stream="s", seq=2)))
    assert await receipts(a) == [("s", 2)]


async def test_a_batch_stands_for_the_time_of_its_samples(a: House) -> None:
    times = ["2026-02-25T09:30:00Z", "2026-02-25T09:00:00Z", "2026-02-25T09:45:00Z"]
    samples = [{"timestamp": time, "metrics": {"cpu": 1}, "status": "online"} for time in times]
    await a.send(Kind.METRICS, signed(a.message(samples=samples, stream="s", seq=1)))
    (run,) = a.telemetry.kept_runs
    assert (run.low_at.minute, run.high_at.minute, run.received_at) == (0, 45, a.clock.now())


async def test_what_an_agent_has_given_up_counts_as_settled(a: House) -> None:
    await a.send(Kind.METRICS, numbered(a, 9, first=7))
    assert await receipts(a) == [("s", 6)]


@pytest.mark.parametrize("members", [{"seq": 1}, {"stream": "s"}, {"first": 1}, {}])
async def test_a_message_without_both_stream_and_number_gets_none(a: House, members: dict[str, Any]) -> None:
    await a.send(Kind.METRICS, signed(a.message(metrics={"cpu": 1}, status="online", **members)))
    assert await receipts(a) == []
    assert a.services.ledger.streams("A") == []


# --- when they are sent ----------------------------------------------------------------------------


async def test_no_receipt_runs_ahead_of_the_commit(a: House) -> None:
    a.telemetry.gate.clear()
    future = a.services.ingest.submit(a.inbound(Kind.METRICS, numbered(a, 1)))
    await a.telemetry.entered.wait()
    assert a.services.ledger.streams("A") == []
    a.telemetry.gate.set()
    await future
    assert await receipts(a) == [("s", 1)]


async def test_what_is_sent_again_brings_the_receipt_again(a: House) -> None:
    message = numbered(a, 1)
    await a.send(Kind.METRICS, message)
    assert await receipts(a) == [("s", 1)]
    assert await a.send(Kind.METRICS, message) == Outcome(duplicates=1)
    assert await receipts(a) == [("s", 1)]


async def test_many_messages_share_a_receipt_and_streams_take_turns(a: House) -> None:
    for seq in range(1, 51):
        for stream in ("s", "t"):
            await a.send(Kind.METRICS, numbered(a, seq, stream, metrics={"cpu": seq, stream: 1}))
    await a.services.receipts.send()
    assert len(a.downlink.on(down_receipts("A"))) == 1
    await a.send(Kind.METRICS, numbered(a, 51))
    assert await receipts(a) == [("t", 50), ("s", 51)]


async def test_the_first_receipt_is_sent_at_once_and_the_next_ones_at_their_pace(
    a: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pingup.services.receipts.EVERY", 0.05)
    running = a.crew.create_task(a.services.receipts.run())
    async with asyncio.timeout(5):
        for seq in range(1, 4):
            a.downlink.news.clear()
            await a.send(Kind.METRICS, numbered(a, seq))
            while len(a.downlink.on(down_receipts("A"))) < seq:
                await a.downlink.news.wait()
                a.downlink.news.clear()
    running.cancel()
    sent = [json.loads(payload)["seq"] for payload in a.downlink.on(down_receipts("A"))]
    assert sent == [1, 2, 3]


async def test_in_a_fleet_larger_than_a_turn_those_come_first_who_have_waited_longest(
    a: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pingup.services.receipts.MOST", 1)
    await a.register("B", secret=OTHER_SECRET)
    for agent_id, secret, seq in (("A", SECRET, 1), ("B", OTHER_SECRET, 1), ("A", SECRET, 2)):
        message = a.message(agentId=agent_id, metrics={"cpu": seq}, status="online", stream="s", seq=seq)
        await a.send(Kind.METRICS, signed(message, secret), agent_id)
    counts = []
    for _ in range(3):
        await a.services.receipts.send()
        counts.append([len(a.downlink.on(down_receipts(agent_id))) for agent_id in ("A", "B")])
    assert counts == [[1, 0], [1, 1], [1, 1]]


async def test_nothing_is_said_while_the_first_message_is_missing(a: House) -> None:
    await a.send(Kind.METRICS, numbered(a, 2))
    assert await receipts(a) == []
    await a.send(Kind.METRICS, numbered(a, 1))
    assert await receipts(a) == [("s", 2)]


async def test_a_removed_agent_gets_no_receipt(a: House) -> None:
    await a.send(Kind.METRICS, numbered(a, 1))
    await a.services.agents.remove("A", purge=False)
    assert await receipts(a) == []


async def test_what_was_received_is_forgotten_by_a_purge_and_by_nothing_less(a: House) -> None:
    await a.send(Kind.METRICS, numbered(a, 1))
    await a.services.agents.remove("A", purge=False)
    assert [stream.settled for stream in a.services.ledger.streams("A")] == [1]
    await a.register()
    await a.services.agents.remove("A", purge=True)
    assert a.services.ledger.streams("A") == []


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"timestamp": "2025-01-01T00:00:00Z"}, Reason.TOO_OLD),
        ({"timestamp": "2026-02-25T11:00:00Z"}, Reason.FROM_THE_FUTURE),
        ({"agentId": "B"}, Reason.WRONG_AGENT),
        ({"metrics": {"cpu": "x"}}, Reason.INVALID),
        ({"metrics": {}}, Reason.INVALID),
        ({"timestamp": 7}, Reason.INVALID),
        ({"first": 0}, Reason.INVALID),
        ({"x": TOO_DEEP}, Reason.TOO_DEEP),
        ({"x": "y" * 64 * 1024}, Reason.TOO_LARGE),
        ({"x": "y" * 300 * 1024}, Reason.TOO_LARGE),
        ({"x": 2**70}, Reason.INVALID),
        ({"metrics": {"cpu": 13}}, Reason.INTERNAL),
    ],
)
async def test_a_refused_message_is_settled_so_that_it_holds_nothing_up(
    a: House, change: dict[str, Any], expected: Reason
) -> None:
    poison = a.metrics(cpu=13)
    report = codec.decode(Kind.METRICS, poison)
    a.telemetry.poison = set(getattr(report, "records", ()))
    await a.send(Kind.METRICS, numbered(a, 1))
    assert await refuse(a, numbered(a, 2, **change)) is expected
    await a.send(Kind.METRICS, numbered(a, 3))
    assert await receipts(a) == [("s", 3)]
    assert [(run.low, run.fate) for run in a.telemetry.kept_runs] == [
        (1, Fate.STORED),
        (2, Fate.REFUSED),
        (3, Fate.STORED),
    ]


async def test_a_batch_without_one_acceptable_sample_is_settled_as_refused(a: House) -> None:
    samples = [{"timestamp": "2025-01-01T00:00:00Z", "metrics": {"cpu": 1}, "status": "online"}]
    assert await refuse(a, signed(a.message(samples=samples, stream="s", seq=1))) is Reason.TOO_OLD
    assert await receipts(a) == [("s", 1)]


@pytest.mark.parametrize("change", [{}, {"timestamp": 7}, {"x": "y" * 300 * 1024}, {"x": TOO_DEEP}])
async def test_a_forged_message_settles_nothing(a: House, change: dict[str, Any]) -> None:
    message = a.message(metrics={"cpu": 1}, status="online", stream="s", seq=1, **change)
    for payload in (signed(message, OTHER_SECRET), json.dumps(message).encode()):
        await refuse(a, payload)
    assert await receipts(a) == []
    assert a.telemetry.kept_runs == []


async def test_another_agents_numbers_are_out_of_reach(a: House) -> None:
    await a.register("B", OTHER_SECRET)
    message = signed(a.message(agent_id="B", metrics={"cpu": 1}, status="online", stream="s", seq=1))
    assert await refuse(a, message) is Reason.WRONG_AGENT
    assert await refuse(a, message, agent_id="B") is Reason.BAD_SIGNATURE
    assert (await receipts(a), await receipts(a, "B")) == ([("s", 1)], [])


@pytest.mark.parametrize(
    "payload",
    [
        b'{"stream":"s","seq":1,',
        b'{"stream":"s","seq":0}',
        b'{"stream":"s","seq":9223372036854775808}',
        b'{"stream":"","seq":1}',
        b'{"stream":7,"seq":1}',
        b'{"stream":"\xff","seq":1}',
        b'{"seq":1}',
        b'{"stream":"s","seq":1,"x":' + b"[" * 3000 + b"]" * 3000 + b"}",
    ],
)
async def test_a_refused_message_without_readable_numbers_settles_nothing(a: House, payload: bytes) -> None:
    await refuse(a, signing.sign(payload, SECRET))
    assert await receipts(a) == []
    assert a.telemetry.kept_runs == []


async def test_only_telemetry_is_numbered(a: House) -> None:
    status = signed(a.message(session="x", status="asleep", stream="s", seq=1))
    assert await refuse(a, status, Kind.STATUS) is Reason.INVALID
    assert await receipts(a) == []


async def test_a_refusal_is_settled_once_it_can_be_stored(a: House) -> None:
    a.telemetry.down = "disk full"
    with pytest.raises(Rejected):
        await a.send(Kind.METRICS, numbered(a, 1, timestamp=7))
    await a.telemetry.failed_twice.wait()
    assert a.services.ledger.streams("A") == []
    a.telemetry.down = None
    await a.send(Kind.METRICS, numbered(a, 2))
    assert await receipts(a) == [("s", 2)]


async def test_a_refusal_that_was_not_stored_when_the_server_stops_settles_nothing(a: House) -> None:
    a.telemetry.down = "disk full"
    with pytest.raises(Rejected):
        await a.send(Kind.METRICS, numbered(a, 1, timestamp=7))
    sample = a.services.ingest.submit(a.inbound(Kind.METRICS, numbered(a, 2)))
    await a.telemetry.failed_twice.wait()
    a.services.batcher.close()
    with pytest.raises(Unavailable):
        await sample
    assert a.services.ledger.streams("A") == []


async def test_a_clock_that_was_set_back_settles_nothing(a: House) -> None:
    await a.send(Kind.METRICS, a.metrics())
    message = numbered(a, 1)
    a.clock.advance(hours=-2)
    with pytest.raises(Unavailable):
        await a.send(Kind.METRICS, message)
    a.clock.advance(hours=2)
    assert await receipts(a) == []
