"""Who gets in, whose session is whose, and what outlasts the server's restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import NamedTuple

import aiomqtt
import pytest

from tests.contract.brokers.cast import SYS_STATUS
from tests.contract.brokers.conftest import OUTSIDE
from tests.contract.brokers.houses import ADMIN_TOKEN, House
from tests.contract.brokers.members import Agent, Member, Seat

pytestmark = pytest.mark.asyncio(loop_scope="package")


# --- who gets in -----------------------------------------------------------------------------------


class Try(NamedTuple):
    """What somebody logs in with who should not get in; {…} is filled in."""

    user: str | None
    password: str | None


STRANGERS = {
    "nobody": Try(None, None),
    "no password": Try("{agent}", None),
    "an empty password": Try("{agent}", ""),
    "a wrong password": Try("{agent}", "wrong"),
    "another agent's token": Try("{agent}", "{others_token}"),
    "the signing secret": Try("{agent}", "{secret}"),
    "nobody's name": Try("stranger", "{token}"),
    "the server by a guess": Try("server", "server"),
    "the server by an agent's token": Try("server", "{token}"),
    "the server by an admin's token": Try("server", ADMIN_TOKEN),
    "an operator by an agent's token": Try("operator", "{token}"),
    "an agent by an operator's token": Try("{agent}", "{api_token}"),
    "a token in place of the name": Try("{token}", ""),
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS.keys())
async def test_who_is_not_let_in_takes_nothing_from_whom_it_names(house: House, stranger: Try) -> None:
    agent, other = await house.agents(2)
    operator = await house.operator()
    known = {
        "agent": agent.id,
        "secret": agent.device.secret,
        "token": agent.password,
        "others_token": other.password,
        "api_token": operator.password,
    }
    user, password = (text and text.format(**known) for text in stranger)
    async with house.seat(agent, agent.down("commands")) as seat:
        for clean in (True, False):
            client = house.client(agent, username=user, password=password, clean_session=clean)
            with pytest.raises(aiomqtt.MqttError):
                await client.__aenter__()
        await house.say(agent.down("commands"), b"still there?")
        assert (await seat.next()).payload == b"still there?"


# --- whose session is whose ------------------------------------------------------------------------


@asynccontextmanager
async def _taking(house: House, thief: Member, client_id: str, *filters: str) -> AsyncIterator[Seat | None]:
    """Somebody who comes with another's client id, and subscribes to what is the other's; None if refused."""
    seat = None
    async with AsyncExitStack() as stack:
        try:
            seat = await stack.enter_async_context(
                house.seat(replace(thief, client_id=client_id), "#", SYS_STATUS, *filters)
            )
        except aiomqtt.MqttError:
            assert not house.ways.pins_every_client_id
        yield seat


async def _thief(house: House, kind: str) -> Member:
    return await house.agent() if kind == "agent" else await house.operator(kind)


THIEVES = pytest.mark.parametrize("thief", ["agent", "read", "admin"])


@THIEVES
async def test_nobody_takes_a_connected_agents_place(house: House, thief: str) -> None:
    agent = await house.agent()
    async with (
        house.seat(agent, agent.down("commands"), SYS_STATUS) as seat,
        _taking(house, await _thief(house, thief), agent.client_id, agent.down("#")) as taken,
    ):
        await house.say(agent.down("commands"), b"for the agent")
        await house.say(SYS_STATUS, b"end")
        await seat.until(lambda one: one.payload == b"end")
        assert b"for the agent" in {one.payload for one in seat.heard}
        if taken is not None:
            await taken.until(lambda one: one.payload == b"end")
            # An admin may watch everything, but then by a subscription of its own.
            assert thief == "admin" or b"for the agent" not in {one.payload for one in taken.heard}


@THIEVES
async def test_nobody_takes_what_waits_for_an_agent_that_is_away(house: House, thief: str) -> None:
    agent = await house.agent()
    async with house.seat(agent, agent.down("commands"), clean_session=False):
        pass
    await house.say(agent.down("commands"), b"waiting")
    async with _taking(house, await _thief(house, thief), agent.client_id, agent.down("#")) as taken:
        if taken is not None:
            await house.say(SYS_STATUS, b"end")
            await taken.until(lambda one: one.payload == b"end")
            assert b"waiting" not in {one.payload for one in taken.heard}
    async with house.seat(agent, clean_session=False) as seat:
        await seat.until(lambda one: one.payload == b"waiting")


@THIEVES
async def test_nobody_takes_the_servers_place(house: House, thief: str) -> None:
    agent, reader = await house.agent(), await house.operator()
    async with (
        house.seat(agent) as talker,
        house.seat(reader, "pingup/v1/live/#", SYS_STATUS) as watching,
        _taking(house, await _thief(house, thief), "server", "pingup/v1/up/#") as taken,
    ):
        await talker.publish(agent.up("metrics"), agent.device.sample(7))
        await watching.until_topic(agent.live("metrics"), cpu=7)
        if taken is not None and thief != "admin":
            await house.say(SYS_STATUS, b"end")
            await taken.until(lambda one: one.payload == b"end")
            assert agent.up("metrics") not in {one.topic for one in taken.heard}
    # The server was never sent away, or it would have come back and said so.
    said = {one.payload for one in watching.heard if one.topic == SYS_STATUS and not one.retain}
    assert said <= {b"end"}


@pytest.mark.parametrize("house", OUTSIDE, indirect=True)
@THIEVES
async def test_nobody_takes_what_waits_for_the_server_that_is_away(house: House, thief: str) -> None:
    agent, member = await house.agent(), await _thief(house, thief)
    async with house.seat(agent) as talker:
        async with house.vacated():
            await talker.publish(agent.up("metrics"), agent.device.sample(1))
            async with _taking(house, member, "server", "pingup/v1/up/#"):
                await talker.publish(agent.up("metrics"), agent.device.sample(2))
        await _until_stored(house, agent, talker, [1, 2])


async def test_an_agents_second_connection_ends_its_first(house: House) -> None:
    agent = await house.agent()
    async with house.seat(agent) as first, house.seat(agent, agent.down("commands")) as second:
        await first.ended()
        await house.say(agent.down("commands"), b"for the second")
        assert (await second.next()).payload == b"for the second"


async def test_two_programs_share_a_token_where_they_may_choose_their_client_ids(
    house: House,
) -> None:
    operator = await house.operator()
    async with (
        house.seat(replace(operator, client_id="one"), SYS_STATUS) as one,
        house.seat(replace(operator, client_id="two"), SYS_STATUS) as two,
    ):
        if house.ways.pins_every_client_id:
            await one.ended()
        else:
            await house.say(SYS_STATUS, b"for both")
            await one.until(lambda message: message.payload == b"for both")
        await house.say(SYS_STATUS, b"for both")
        await two.until(lambda message: message.payload == b"for both")


# --- what outlasts the server ----------------------------------------------------------------------


async def _until_stored(house: House, agent: Agent, talker: Seat, cpus: list[float]) -> None:
    """Wait until the server has these samples, and none of them twice.

    The agent's last sample comes after them, and shows when it is stored.
    """
    reader = await house.operator()
    async with house.seat(reader, agent.live("metrics")) as watching:
        await talker.publish(agent.up("metrics"), agent.device.sample(99))
        await watching.until_topic(agent.live("metrics"), cpu=99)
    assert await house.history(agent) == [*cpus, 99]


@pytest.mark.parametrize("house", OUTSIDE, indirect=True)
async def test_what_is_published_while_the_server_is_away_is_stored_once(house: House) -> None:
    agent = await house.agent()
    before, meanwhile = [float(cpu) for cpu in range(10)], [float(cpu) for cpu in range(10, 60)]
    async with house.seat(agent) as talker:
        for cpu in before:
            await talker.publish(agent.up("metrics"), agent.device.sample(cpu))
        async with house.vacated():
            for cpu in meanwhile:
                await talker.publish(agent.up("metrics"), agent.device.sample(cpu))
        await _until_stored(house, agent, talker, before + meanwhile)


@pytest.mark.parametrize("house", OUTSIDE, indirect=True)
async def test_people_and_agents_see_the_server_go_and_come(house: House) -> None:
    agent, reader = await house.agent(), await house.operator()
    async with (
        house.seat(agent, SYS_STATUS) as seat,
        house.seat(reader, SYS_STATUS) as watching,
    ):
        async with house.vacated():
            await seat.until_topic(SYS_STATUS, status="offline")
            await watching.until_topic(SYS_STATUS, status="offline")
        await seat.until_topic(SYS_STATUS, status="online")
        await watching.until_topic(SYS_STATUS, status="online")
    async with house.seat(agent, SYS_STATUS) as late:
        shown = await late.next()
        assert (shown.retain, shown.content["status"]) == (True, "online")


async def test_after_the_servers_restart_agents_get_what_was_meant_for_them(house: House) -> None:
    agent = await house.agent()
    await house.call("POST", f"/config/{agent.id}", {"interval": 5})
    command_id = await house.order(agent)
    async with house.vacated():
        pass
    wanted = {agent.down("commands"), agent.down("config"), SYS_STATUS}
    async with house.seat(agent, *wanted) as seat:
        await seat.publish(agent.up("status"), agent.device.sign(session="s", status="online"))
        await seat.until(lambda _: wanted <= {one.topic for one in seat.heard})
    told = {one.topic: one for one in seat.heard}
    assert agent.device.verify(told[agent.down("config")].payload)["config"] == {"interval": 5}
    assert agent.device.verify(told[agent.down("commands")].payload)["commandId"] == command_id
    assert told[SYS_STATUS].content["status"] == "online"
