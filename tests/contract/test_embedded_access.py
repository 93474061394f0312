"""Who gets into the embedded broker, under which name, and whose messages they see."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from pingup.brokers.limits import Limits
from pingup.model import Scope
from pingup.topics import SYS_STATUS, Live, down_commands, down_config, live
from tests.contract.broker_rig import PATIENCE, Rig, metrics, open_rig, status
from tests.contract.mqtt_packets import CONNACK, PUBACK, SUBACK, Will, connect, publish, subscribe

REFUSED = 0x80


# --- who gets in -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("username", "password"),
    [(None, None), ("A", None), (None, "token-of-A"), ("A", "wrong"), ("A", ""), ("B", "token-of-A")],
)
async def test_nobody_gets_in_without_a_right_name_and_password(
    rig: Rig, username: str | None, password: str | None
) -> None:
    rig.register("A")
    peer, return_code = await rig.try_connect(connect("A", username, password))
    assert return_code in (4, 5)
    assert await peer.is_closed()


@pytest.mark.parametrize("clean", [True, False])
async def test_a_wrong_password_takes_nothing_from_the_client_whose_id_it_names(
    rig: Rig, *, clean: bool
) -> None:
    agent = await rig.agent("A", clean=False)
    await agent.subscribe(down_commands("A"))
    peer, return_code = await rig.try_connect(connect("A", "A", "wrong", clean=clean))
    assert return_code == 4
    assert await peer.is_closed()
    assert rig.broker.is_listening("A")
    rig.broker.emit(down_commands("A"), b"still here")
    assert (await agent.arrival()).payload == b"still here"


@pytest.mark.parametrize("clean", [True, False])
async def test_a_wrong_password_takes_no_queued_message_and_no_subscription(rig: Rig, *, clean: bool) -> None:
    agent = await rig.agent("A", clean=False)
    await agent.subscribe(down_commands("A"))
    await agent.leave()
    assert not await rig.broker.deliver(down_commands("A"), b"queued")
    await rig.try_connect(connect("A", "A", "wrong", clean=clean))
    agent = await rig.agent("A", clean=False, present=True)
    assert (await agent.arrival()).payload == b"queued"


async def test_an_error_inside_authentication_refuses_and_the_broker_goes_on(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    token = rig.register("A")
    rig.keyring.is_broken = True
    peer, return_code = await rig.try_connect(connect("A", "A", token))
    assert return_code == 3
    assert await peer.is_closed()
    rig.keyring.is_broken = False
    await rig.agent("A")
    assert "the keyring is broken" in caplog.text
    assert token not in caplog.text


async def test_a_version_of_the_protocol_that_is_not_spoken_is_refused(rig: Rig) -> None:
    token = rig.register("A")
    for level in (3, 5):
        peer, return_code = await rig.try_connect(connect("A", "A", token, level=level))
        assert return_code == 1
        assert await peer.is_closed()


# --- under which name ------------------------------------------------------------------------------


async def test_an_agent_has_its_own_id_as_client_id_and_no_other(rig: Rig) -> None:
    token = rig.register("A")
    for client_id in ("B", "a", "server", "A "):
        _, return_code = await rig.try_connect(connect(client_id, "A", token))
        assert return_code == 2
    _, return_code = await rig.try_connect(connect("", "A", token))
    assert return_code == 0


async def test_an_operator_cannot_take_the_id_of_an_agent_or_of_the_server(rig: Rig) -> None:
    agent = await rig.agent("A", clean=False)
    token = rig.admit("admin", Scope.ADMIN)
    for client_id in ("A", "server"):
        _, return_code = await rig.try_connect(connect(client_id, "operator", token))
        assert return_code == 2
    _, return_code = await rig.try_connect(connect("anything else", "operator", token))
    assert return_code == 0
    assert await agent.is_quiet()


async def test_operators_without_a_client_id_are_kept_apart(rig: Rig) -> None:
    token = rig.admit("admin", Scope.ADMIN)
    one, first = await rig.try_connect(connect("", "operator", token))
    other, second = await rig.try_connect(connect("", "operator", token))
    assert (first, second) == (0, 0)
    assert await one.is_quiet()
    assert await other.is_quiet()


async def test_a_session_cannot_be_kept_without_a_client_id(rig: Rig) -> None:
    token = rig.admit("admin", Scope.ADMIN)
    peer, return_code = await rig.try_connect(connect("", "operator", token, clean=False))
    assert return_code == 2
    assert await peer.is_closed()


async def test_a_second_connection_of_an_agent_ends_the_first_and_its_will_goes_out(rig: Rig) -> None:
    first = await rig.agent("A", will=Will(status("A"), b"taken over"))
    second = await rig.agent("A")
    assert await first.is_closed()
    assert [inbound.payload for inbound in rig.ingest.taken] == [b"taken over"]
    await second.subscribe(down_commands("A"))
    rig.broker.emit(down_commands("A"), b"for the second")
    assert (await second.arrival()).payload == b"for the second"


async def test_many_connections_at_once_for_one_agent_leave_exactly_one(rig: Rig) -> None:
    token = rig.register("A")
    peers = [await rig.peer() for _ in range(10)]
    for peer in peers:
        peer.send(connect("A", "A", token), subscribe(down_commands("A"), qos=0))
    open_peers = 0
    for peer in peers:
        try:
            await peer.expect(CONNACK)
            await peer.expect(SUBACK)
            open_peers += await peer.is_quiet()
        except (asyncio.IncompleteReadError, ConnectionError):
            continue
    assert open_peers == 1
    assert rig.broker.is_listening("A")


async def test_another_token_does_not_take_up_a_kept_session(rig: Rig) -> None:
    admin = await rig.operator("admin", Scope.ADMIN, client_id="desk", clean=False)
    await admin.subscribe("pingup/#")
    await admin.leave()
    agent = await rig.agent("A")
    agent.send(publish(metrics("A"), b"for admins", packet_id=1))
    await agent.expect(PUBACK)
    reader = await rig.operator("reader", Scope.READ, client_id="desk", clean=False, present=False)
    assert await reader.is_quiet()


async def test_sessions_end_when_their_agent_is_revoked(rig: Rig) -> None:
    agent = await rig.agent("A", clean=False, will=Will(status("A"), b"gone"))
    await agent.subscribe(down_commands("A"))
    other = await rig.agent("B")
    rig.keyring.drop("A")
    rig.broker.end_sessions("A")
    assert await agent.is_closed()
    assert not rig.broker.is_listening("A")
    assert await other.is_quiet()
    assert not rig.ingest.taken
    await rig.agent("A", clean=False, present=False)


async def test_a_kept_session_is_forgotten_when_its_agent_is_revoked_while_away(rig: Rig) -> None:
    agent = await rig.agent("A", clean=False)
    await agent.subscribe(down_commands("A"))
    await agent.leave()
    await rig.broker.deliver(down_commands("A"), b"queued")
    rig.broker.end_sessions("A")
    agent = await rig.agent("A", clean=False, present=False)
    assert await agent.is_quiet()


async def test_all_connections_of_a_revoked_token_end(rig: Rig) -> None:
    one = await rig.operator("desk", client_id="one")
    two = await rig.operator("desk", client_id="two")
    other = await rig.operator("other", client_id="three")
    rig.broker.end_sessions("desk")
    assert await one.is_closed()
    assert await two.is_closed()
    assert await other.is_quiet()


async def test_a_session_ends_when_its_token_expires(rig: Rig) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    operator = await rig.operator("guest", expires_at=soon)
    assert await operator.is_closed()
    assert datetime.now(UTC) >= soon


# --- what they see ---------------------------------------------------------------------------------

EVERYTHING = (
    metrics("A"),
    metrics("B"),
    down_commands("A"),
    down_commands("B"),
    live("B", Live.PRESENCE),
    SYS_STATUS,
)


@pytest.mark.parametrize(
    ("scope", "visible"),
    [
        (Scope.READ, {live("B", Live.PRESENCE), SYS_STATUS}),
        (Scope.COMMAND, {live("B", Live.PRESENCE), SYS_STATUS}),
        (Scope.ADMIN, set(EVERYTHING)),
    ],
)
@pytest.mark.parametrize("retain", [True, False])
async def test_operators_see_what_their_scope_reaches(
    rig: Rig, scope: Scope, visible: set[str], *, retain: bool
) -> None:
    operator = await rig.operator("one", scope)
    assert await operator.subscribe("#") == [1]
    for topic in EVERYTHING:
        rig.broker.emit(topic, b"x", retain=retain)
    assert {(await operator.arrival()).topic for _ in visible} == visible
    assert await operator.is_quiet()


async def test_an_agent_receives_what_is_its_own_and_nothing_of_another(rig: Rig) -> None:
    agent = await rig.agent("A")
    assert await agent.subscribe("#", "pingup/v1/down/+/commands") == [1, 1]
    for topic in EVERYTHING:
        rig.broker.emit(topic, b"x")
    assert {(await agent.arrival()).topic for _ in range(2)} == {down_commands("A"), SYS_STATUS}
    assert await agent.is_quiet()


async def test_a_filter_that_can_match_nothing_permitted_is_refused(rig: Rig) -> None:
    agent = await rig.agent("A")
    refused = (
        "pingup/v1/down/B/#",
        "pingup/v1/up/#",
        "pingup/v1/live/#",
        "$SYS/#",
        "$share/g/pingup/v1/down/A/#",
        "pingup/v1/down/A/#/x",
        "pingup/v1/down/A+/x",
        "",
    )
    assert await agent.subscribe(*refused) == [REFUSED] * len(refused)
    operator = await rig.operator("reader", Scope.READ)
    assert await operator.subscribe("pingup/v1/up/#", "pingup/v1/down/A/#") == [REFUSED, REFUSED]


async def test_no_retained_message_reaches_an_agent_that_may_not_read_it(rig: Rig) -> None:
    for topic in EVERYTHING:
        rig.broker.emit(topic, b"x", retain=True)
    agent = await rig.agent("A", clean=False)
    await agent.subscribe("#")
    assert {(await agent.arrival()).topic for _ in range(2)} == {down_commands("A"), SYS_STATUS}
    assert await agent.is_quiet()


async def test_a_connection_is_sent_no_retained_message_for_what_others_subscribed_to(rig: Rig) -> None:
    admin = await rig.operator("admin")
    await admin.subscribe("pingup/#")
    other = await rig.agent("B")
    await other.subscribe(down_config("B"), SYS_STATUS)
    for topic in (*EVERYTHING, down_config("B")):
        rig.broker.emit(topic, b"x", retain=True)
    agent = await rig.agent("A", clean=False)
    assert await agent.is_quiet()
    await agent.leave()
    agent = await rig.agent("A", clean=False, present=True)
    assert await agent.is_quiet()


async def test_filters_of_one_client_are_bounded() -> None:
    async with open_rig(Limits(filters=3)) as rig:
        agent = await rig.agent("A")
        filters = [f"pingup/v1/down/A/{name}" for name in "abcd"]
        assert await agent.subscribe(*filters) == [1, 1, 1, REFUSED]
        assert await agent.subscribe(filters[0]) == [1]


async def test_kept_sessions_are_bounded_and_the_longest_away_makes_room() -> None:
    async with open_rig(Limits(sessions=2)) as rig:
        for agent_id in ("A", "B", "C"):
            agent = await rig.agent(agent_id, clean=False)
            await agent.leave()
        await rig.agent("C", clean=False, present=True)
        await rig.agent("B", clean=False, present=True)
        await rig.agent("A", clean=False, present=False)


async def test_a_session_that_is_away_for_too_long_is_forgotten_with_its_subscriptions() -> None:
    async with open_rig(Limits(session_expiry=0)) as rig:
        agent = await rig.agent("A", clean=False)
        await agent.subscribe(down_commands("A"))
        await agent.leave()
        async with asyncio.timeout(PATIENCE):
            # No event tells.
            while rig.broker._exchange._subscriptions.get(down_commands("A")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await rig.agent("A", clean=False, present=False)


async def test_connections_are_bounded() -> None:
    async with open_rig(Limits(connections=2)) as rig:
        one = await rig.agent("A")
        await rig.agent("B")
        third = await rig.peer()
        assert await third.is_closed()
        await one.leave()
        token = rig.register("C")
        async with asyncio.timeout(5):
            while True:
                # The place is free a moment after the goodbye.
                peer = await rig.peer()
                peer.send(connect("C", "C", token))
                try:
                    assert (await peer.expect(CONNACK)).body[1] == 0
                except (asyncio.IncompleteReadError, ConnectionError):
                    continue
                break
