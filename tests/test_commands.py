"""A command's life: stored first, sent while it lives, moved only forward, and only by its own agent."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pingup import signing
from pingup.errors import Conflict, Invalid, NotFound, Reason, Rejected
from pingup.model import AgentKey, Algorithm, Command, CommandReport, CommandStatus, Outcome
from pingup.services.agents import Registration
from pingup.services.commands import TRANSITIONS
from pingup.topics import Kind, Live, down_commands, live
from tests.conftest import ManualClock
from tests.house import House, open_house, signed

S = CommandStatus
TOPIC = down_commands("A")


@pytest.fixture
async def a(house: House) -> House:
    await house.register()
    return house


def report(house: House, command: Command, status: CommandStatus, result: str | None = None) -> CommandReport:
    return CommandReport(command.agent_id, house.clock.now(), command.command_id, status, result)


async def published(house: House, count: int) -> list[bytes]:
    """Wait until so many commands were published to agent A."""
    async with asyncio.timeout(5):
        while len(house.downlink.on(TOPIC)) < count:
            house.downlink.news.clear()
            await house.downlink.news.wait()
    return house.downlink.on(TOPIC)


async def status_of(house: House, command: Command, wanted: CommandStatus) -> None:
    """Wait until a command has this status; every change of it is news on a live topic."""
    async with asyncio.timeout(5):
        house.downlink.news.clear()
        while (await house.services.commands.get(command.command_id)).status is not wanted:
            await house.downlink.news.wait()
            house.downlink.news.clear()


async def test_a_command_reaches_a_connected_agent_signed_by_its_own_secret(a: House) -> None:
    a.downlink.listening.add("A")
    command = await a.services.commands.create("A", "restart_service", {"service": "x"})
    (message,) = await published(a, 1)
    key = a.services.keyring.key_of("A")
    assert key is not None
    signing.verify(message, key)
    body = json.loads(message)
    assert body.pop("signature") == command.signature
    assert body == {
        "agentId": "A",
        "commandId": command.command_id,
        "action": "restart_service",
        "params": {"service": "x"},
        "issuedAt": "2026-02-25T10:00:00Z",
        "expiresAt": "2026-02-25T11:00:00Z",
    }
    assert signing.cut(message) == (command.signed.encode(), command.signature.encode())
    assert a.downlink.retained(TOPIC) == [False]
    await status_of(a, command, S.SENT)


async def test_an_ed25519_agent_verifies_commands_with_the_servers_key(house: House) -> None:
    own = signing.Signer(signing.new_seed())
    wish = Registration(id="A", metadata={}, tags=(), public_key=own.public_key)
    _, credentials = await house.services.agents.register(wish)
    assert credentials.server_public_key is not None
    house.downlink.listening.add("A")
    await house.services.commands.create("A", "ping", {})
    (message,) = await published(house, 1)
    server = base64.b64decode(credentials.server_public_key)
    signing.verify(message, AgentKey("server", Algorithm.ED25519, None, server, b""))


async def test_a_command_waits_for_an_agent_that_is_away_and_is_sent_at_its_birth(a: House) -> None:
    command = await a.services.commands.create("A", "ping", {})
    await status_of(a, command, S.PENDING)
    assert a.downlink.on(TOPIC) == []
    a.downlink.listening.add("A")
    await a.send(Kind.STATUS, signed(a.message(session="s1", status="online")))
    await published(a, 1)
    await status_of(a, command, S.SENT)


async def test_commands_that_wait_are_sent_as_soon_as_the_broker_can_be_reached(a: House) -> None:
    command = await a.services.commands.create("A", "ping", {})
    a.services.commands.reachable()
    await status_of(a, command, S.PENDING)
    a.downlink.listening.add("A")
    a.services.commands.reachable()
    await published(a, 1)
    await status_of(a, command, S.SENT)


async def test_a_sent_command_is_sent_again_when_the_agent_comes_back_until_it_answers(a: House) -> None:
    a.downlink.listening.add("A")
    command = await a.services.commands.create("A", "ping", {})
    await published(a, 1)
    a.services.commands.listening("A")
    await published(a, 2)
    assert await a.services.commands.report(report(a, command, S.ACKNOWLEDGED)) == Outcome(stored=1)
    a.services.commands.listening("A")
    other = await a.services.commands.create("A", "ping", {})
    await status_of(a, other, S.SENT)
    sent = [json.loads(message)["commandId"] for message in a.downlink.on(TOPIC)]
    assert sent.count(command.command_id) == 2


async def test_a_new_command_does_not_have_the_earlier_ones_sent_again(a: House) -> None:
    a.downlink.listening.add("A")
    made = [await a.services.commands.create("A", "ping", {}) for _ in range(5)]
    for command in made:
        await status_of(a, command, S.SENT)
    sent = [json.loads(message)["commandId"] for message in a.downlink.on(TOPIC)]
    assert sent == [command.command_id for command in made]


async def test_a_command_survives_a_restart_of_the_server(tmp_path: Path, clock: ManualClock) -> None:
    async with open_house(tmp_path, clock) as first:
        await first.register()
        command = await first.services.commands.create("A", "ping", {})
    async with open_house(tmp_path, clock) as second:
        second.downlink.listening.add("A")
        (message,) = await published(second, 1)
        assert json.loads(message)["commandId"] == command.command_id


async def test_a_command_expires_and_is_not_sent_any_more(a: House) -> None:
    command = await a.services.commands.create("A", "ping", {}, timedelta(minutes=1))
    a.clock.advance(seconds=61)
    await status_of(a, command, S.EXPIRED)
    assert await a.services.commands.pending("A", fetched=False) == []


async def given_up(house: House, status: CommandStatus, *, sent: bool) -> Command:
    """A command with a minute to live that the server has given up, two minutes later."""
    command = await house.services.commands.create("A", "ping", {}, timedelta(minutes=1))
    if sent:
        await house.services.commands.pending("A", fetched=True)
    if status is S.CANCELLED:
        await house.services.commands.cancel(command.command_id)
    house.clock.advance(minutes=2)
    await status_of(house, command, status)
    return command


async def test_what_the_agent_did_in_time_is_recorded_also_when_it_comes_late(a: House) -> None:
    command = await given_up(a, S.EXPIRED, sent=True)
    in_time = command.created_at + timedelta(seconds=30)
    for status, result in ((S.ACKNOWLEDGED, None), (S.RUNNING, None), (S.COMPLETED, '{"pong":true}')):
        late = CommandReport("A", in_time, command.command_id, status, result)
        await a.services.commands.report(late)
    kept = await a.services.commands.get(command.command_id)
    assert (kept.status, json.loads(bytes(kept.result))) == (S.COMPLETED, {"pong": True})


@pytest.mark.parametrize("status", [S.EXPIRED, S.CANCELLED])
async def test_an_agent_that_was_at_it_when_the_server_gave_up_can_still_say_how_it_ended(
    a: House, status: CommandStatus
) -> None:
    command = await given_up(a, status, sent=True)
    await a.services.commands.report(report(a, command, S.FAILED))
    assert (await a.services.commands.get(command.command_id)).status is S.FAILED


@pytest.mark.parametrize(
    ("given_up_as", "sent", "later"),
    [
        (S.EXPIRED, False, S.COMPLETED),
        (S.CANCELLED, False, S.COMPLETED),
        (S.EXPIRED, True, S.ACKNOWLEDGED),
        (S.EXPIRED, True, S.RUNNING),
        (S.CANCELLED, True, S.ACKNOWLEDGED),
        (S.CANCELLED, True, S.RUNNING),
    ],
)
async def test_a_command_that_was_given_up_does_not_come_back_to_life(
    a: House, given_up_as: CommandStatus, sent: bool, later: CommandStatus
) -> None:
    command = await given_up(a, given_up_as, sent=sent)
    with pytest.raises(Rejected) as caught:
        await a.services.commands.report(report(a, command, later))
    assert caught.value.reason is Reason.CONFLICT
    assert (await a.services.commands.get(command.command_id)).status is given_up_as


async def test_the_result_is_kept_and_the_same_end_again_is_success(a: House) -> None:
    command = await a.services.commands.create("A", "ping", {})
    end = report(a, command, S.FAILED, '{"error":"no such service"}')
    assert await a.services.commands.report(end) == Outcome(stored=1)
    assert await a.services.commands.report(end) == Outcome(duplicates=1)
    kept = await a.services.commands.get(command.command_id)
    assert json.loads(bytes(kept.result)) == {"error": "no such service"}


@pytest.mark.parametrize("later", [S.COMPLETED, S.ACKNOWLEDGED, S.RUNNING])
async def test_an_end_is_final(a: House, later: CommandStatus) -> None:
    command = await a.services.commands.create("A", "ping", {})
    await a.services.commands.report(report(a, command, S.FAILED))
    with pytest.raises(Rejected) as caught:
        await a.services.commands.report(report(a, command, later))
    assert caught.value.reason is Reason.CONFLICT
    assert (await a.services.commands.get(command.command_id)).status is S.FAILED


async def test_only_the_commands_own_agent_may_report(a: House) -> None:
    await a.register("B", "agent-b-secret-of-at-least-32-characters")
    command = await a.services.commands.create("A", "ping", {})
    for agent_id, command_id in (("B", command.command_id), ("A", "CMD-none")):
        with pytest.raises(Rejected) as caught:
            await a.services.commands.report(
                CommandReport(agent_id, a.clock.now(), command_id, S.COMPLETED, None)
            )
        assert caught.value.reason is Reason.NOT_FOUND
    assert (await a.services.commands.get(command.command_id)).status is S.PENDING


async def test_a_waiting_command_can_be_cancelled_and_one_under_way_not(a: House) -> None:
    waiting, under_way = [await a.services.commands.create("A", "ping", {}) for _ in range(2)]
    await a.services.commands.report(report(a, under_way, S.ACKNOWLEDGED))
    cancelled = await a.services.commands.cancel(waiting.command_id)
    assert cancelled.status is S.CANCELLED
    for ended in (waiting, under_way):
        with pytest.raises(Conflict):
            await a.services.commands.cancel(ended.command_id)
    with pytest.raises(NotFound):
        await a.services.commands.cancel("CMD-none")


async def test_pending_commands_are_handed_out_oldest_first_and_count_as_sent_when_fetched(a: House) -> None:
    made = []
    for _ in range(3):
        made.append((await a.services.commands.create("A", "ping", {})).command_id)
        a.clock.advance(seconds=1)
    looked = await a.services.commands.pending("A", fetched=False)
    assert {command.status for command in looked} == {S.PENDING}
    assert [command.command_id for command in await a.services.commands.pending("A", fetched=True)] == made
    assert (await a.services.commands.get(made[0])).status is S.SENT
    assert len(await a.services.commands.pending("A", fetched=True)) == 3


async def test_every_step_is_shown_live_and_kept_in_the_history(a: House) -> None:
    command = await a.services.commands.create("A", "ping", {})
    for status in (S.ACKNOWLEDGED, S.RUNNING, S.COMPLETED):
        a.clock.advance(seconds=1)
        await a.services.commands.report(report(a, command, status))
    steps = ["pending", "acknowledged", "running", "completed"]
    shown = [json.loads(payload)["status"] for payload in a.downlink.on(live("A", Live.COMMANDS))]
    assert shown == steps
    history = (await a.services.commands.get(command.command_id)).history
    assert [change.status.value for change in history] == steps
    assert [(change.at - command.created_at).seconds for change in history] == [0, 1, 2, 3]


async def test_a_command_for_nobody_or_too_large_is_refused_and_not_stored(a: House) -> None:
    with pytest.raises(NotFound):
        await a.services.commands.create("nobody", "ping", {})
    for params in ({"x": "y" * 70_000}, {"x": [[[[[[[[1]]]]]]]]}, {"x": 10**30}):
        with pytest.raises(Invalid) as caught:
            await a.services.commands.create("A", "ping", params)
        assert "params" in caught.value.errors
    assert await a.services.commands.page(agent_id=None, status=None, limit=9, after=None) == []


async def test_a_command_that_goes_with_its_agent_just_when_it_expires_stops_nothing(
    a: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = await a.services.commands.create("A", "ping", {})

    async def overdue(now: datetime) -> list[str]:
        await a.services.agents.remove("A", purge=False)
        return [command.command_id]

    monkeypatch.setattr(a.registry.commands, "overdue", overdue)
    await a.services.commands._expire()


async def test_a_report_that_comes_just_when_its_agent_is_removed_is_refused(
    a: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = await a.services.commands.create("A", "ping", {})

    async def move(*_: object) -> bool:
        await a.services.agents.remove("A", purge=False)
        return False

    monkeypatch.setattr(a.registry.commands, "move", move)
    message = a.message(commandId=command.command_id, status="completed")
    with pytest.raises(Rejected) as caught:
        await a.send(Kind.RESULTS, signed(message))
    assert caught.value.reason is Reason.NOT_FOUND


def test_no_state_ever_goes_back() -> None:
    rank = {S.PENDING: 0, S.SENT: 1, S.EXPIRED: 1, S.CANCELLED: 1, S.ACKNOWLEDGED: 2, S.RUNNING: 3}
    for target, sources in TRANSITIONS.items():
        for source in sources:
            assert rank[source] <= rank.get(target, 4), f"{source} → {target}"
    assert {S.COMPLETED, S.FAILED, S.REJECTED}.isdisjoint(
        source for sources in TRANSITIONS.values() for source in sources
    )
    assert set(S) - {S.PENDING} == set(TRANSITIONS)
