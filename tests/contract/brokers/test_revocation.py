"""Agents and tokens that are taken away: out at once, and nothing of them stays at the broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import aiomqtt
import pytest

from tests.contract.brokers.cast import SYS_STATUS
from tests.contract.brokers.houses import House
from tests.contract.brokers.members import Member

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def _is_refused(house: House, member: Member) -> bool:
    try:
        async with house.seat(member):
            return False
    except aiomqtt.MqttError:
        return True


async def test_a_deleted_agent_is_sent_away_and_not_let_in_again(house: House) -> None:
    agent, other = await house.agents(2)
    async with house.seat(agent, agent.down("#")) as seat, house.seat(other, SYS_STATUS) as bystander:
        await house.delete_agent(agent)
        await seat.ended()
        await house.say(SYS_STATUS, b"still there?")
        await bystander.until(lambda one: one.payload == b"still there?")
    assert await _is_refused(house, agent)


async def test_nothing_of_a_deleted_agent_stays_retained(house: House) -> None:
    agent, admin = await house.agent(), await house.operator("admin")
    filters = (agent.up("#"), agent.down("#"), agent.live("#"))
    async with house.seat(agent) as seat, house.seat(admin, *filters) as watching:
        birth = agent.device.sign(session="s", status="online")
        await seat.publish(agent.up("status"), birth, retain=True)
        await seat.publish(agent.up("metrics"), agent.device.sample(1))
        await house.call("POST", f"/config/{agent.id}", {"interval": 5})
        await watching.until_topic(agent.live("metrics"), cpu=1)
    retained = {agent.up("status"), agent.down("config"), agent.live("presence"), agent.live("metrics")}
    async with house.seat(admin, *filters) as watching:
        await watching.until(lambda _: retained <= {one.topic for one in watching.heard if one.retain})
    await house.delete_agent(agent)
    async with house.seat(admin, *filters, SYS_STATUS) as watching:
        await house.say(SYS_STATUS, b"end")
        await watching.until(lambda one: one.payload == b"end")
    assert {one.topic for one in watching.heard} == {SYS_STATUS}


async def test_a_deleted_agent_that_is_registered_anew_has_a_new_token(house: House) -> None:
    old = await house.agent()
    await house.delete_agent(old)
    new = await house.register_again(old.id)
    assert await _is_refused(house, old)
    async with house.seat(new) as seat:
        await seat.publish(new.up("metrics"), new.device.sample(1))


@pytest.mark.parametrize("scope", ["read", "admin"])
async def test_a_revoked_api_token_ends_its_connection_and_lets_nobody_in(house: House, scope: str) -> None:
    operator, other = await house.operator(scope), await house.operator(scope)
    async with house.seat(operator, SYS_STATUS) as seat, house.seat(other, SYS_STATUS) as bystander:
        await house.delete_token(operator)
        await seat.ended()
        await house.say(SYS_STATUS, b"still there?")
        await bystander.until(lambda one: one.payload == b"still there?")
    assert await _is_refused(house, operator)


async def test_an_api_token_that_expires_ends_its_connection(house: House) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    operator = await house.operator(expiresAt=soon.isoformat())
    async with house.seat(operator, SYS_STATUS) as seat:
        await house.expire(operator)
        await seat.ended()
    assert datetime.now(UTC) >= soon or not house.ways.forgets_at_once
    assert await _is_refused(house, operator)
