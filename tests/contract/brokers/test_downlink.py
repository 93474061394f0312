"""What the server says to agents: configurations, commands, receipts."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import aiomqtt
import pytest
from nacl.signing import SigningKey, VerifyKey

from tests.contract.brokers.cast import SYS_STATUS
from tests.contract.brokers.houses import House
from tests.contract.brokers.members import Agent, Heard, Seat
from tests.devices import split

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def _birth(agent: Agent, seat: Seat) -> None:
    await seat.publish(agent.up("status"), agent.device.sign(session="s", status="online", interval=3600))


async def _all_before(house: House, seat: Seat) -> list[Heard]:
    """Everything that reaches a client before something that the server says last."""
    await house.say(SYS_STATUS, b"end")
    await seat.until(lambda one: one.payload == b"end")
    return seat.heard


# --- configurations --------------------------------------------------------------------------------


async def test_an_agent_that_comes_later_gets_the_newest_configuration_alone(house: House) -> None:
    agent = await house.agent()
    for interval in (5, 6, 7):
        await house.call("POST", f"/config/{agent.id}", {"interval": interval})
    async with house.seat(agent, agent.down("#"), SYS_STATUS) as seat:
        await seat.until_topic(agent.down("config"), version=3)
        configs = [one for one in await _all_before(house, seat) if one.topic == agent.down("config")]
    (retained,) = (one for one in configs if one.retain)
    content = agent.device.verify(retained.payload)
    assert (content["agentId"], content["config"], content["version"]) == (agent.id, {"interval": 7}, 3)
    assert "timestamp" not in content


async def test_a_configuration_reaches_an_agent_that_is_there(house: House) -> None:
    agent = await house.agent()
    async with house.seat(agent, agent.down("#")) as seat:
        await house.call("POST", f"/config/{agent.id}", {"interval": 5})
        told = await seat.until_topic(agent.down("config"))
    assert agent.device.verify(told.payload)["config"] == {"interval": 5}


async def test_an_ed25519_agent_verifies_its_configuration_with_the_servers_key(house: House) -> None:
    own_key = base64.b64encode(bytes(SigningKey.generate().verify_key)).decode()
    agent, server_key = await house.ed25519_agent(own_key)
    await house.call("POST", f"/config/{agent.id}", {"interval": 5})
    async with house.seat(agent, agent.down("config")) as seat:
        told = await seat.until_topic(agent.down("config"))
    signed, signature = split(told.payload)
    VerifyKey(base64.b64decode(server_key)).verify(signed, signature)
    assert json.loads(told.payload)["config"] == {"interval": 5}


# --- commands --------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False], ids=["new session", "kept session"])
async def test_a_command_waits_for_an_agent_that_is_away(house: House, *, clean: bool) -> None:
    agent = await house.agent()
    async with house.seat(agent, agent.down("#"), clean_session=clean):
        pass
    command_id = await house.order(agent, params={"x": 1})
    async with house.seat(agent, agent.down("#"), clean_session=clean) as seat:
        await _birth(agent, seat)
        told = await seat.until_topic(agent.down("commands"))
    content = agent.device.verify(told.payload)
    assert (content["commandId"], content["action"], content["params"]) == (command_id, "ping", {"x": 1})
    assert "timestamp" not in content
    assert not told.retain


async def test_a_command_reaches_an_agent_that_is_there(house: House) -> None:
    agent = await house.agent()
    async with house.seat(agent, agent.down("#")) as seat:
        await _birth(agent, seat)
        command_id = await house.order(agent)
        told = await seat.until_topic(agent.down("commands"))
    assert agent.device.verify(told.payload)["commandId"] == command_id
    assert told.qos == 1


async def test_an_mqtt_5_agent_is_told_when_a_command_expires(house: House) -> None:
    if aiomqtt.ProtocolVersion.V5 not in house.ways.versions:
        return
    agent = await house.agent()
    async with house.seat(agent, agent.down("#"), protocol=aiomqtt.ProtocolVersion.V5) as seat:
        await _birth(agent, seat)
        await house.order(agent, ttl="10m")
        told = await seat.until_topic(agent.down("commands"))
    assert told.expiry is not None
    assert 500 < told.expiry <= 600


async def test_no_command_comes_after_its_time(house: House) -> None:
    agent, reader = await house.agent(), await house.operator()
    async with house.seat(agent, agent.down("#"), clean_session=False) as seat:
        await _birth(agent, seat)
    async with house.seat(reader, agent.live("commands")) as watching:
        command_id = await house.order(agent, ttl="1s")
        lasting = await house.order(agent, ttl="10m")
        await watching.until_topic(agent.live("commands"), commandId=command_id, status="expired")
    async with house.seat(agent, agent.down("#"), SYS_STATUS, clean_session=False) as seat:
        await _birth(agent, seat)
        await seat.until_topic(agent.down("commands"), commandId=lasting)
        heard = await _all_before(house, seat)
    told = {one.content["commandId"] for one in heard if one.topic == agent.down("commands")}
    assert told == {lasting}


async def test_a_command_that_was_answered_never_comes_again(house: House) -> None:
    agent, reader = await house.agent(), await house.operator()
    async with (
        house.seat(reader, agent.live("commands")) as watching,
        house.seat(agent, agent.down("#"), clean_session=False) as seat,
    ):
        command_id = await house.order(agent)
        await _birth(agent, seat)
        await seat.until_topic(agent.down("commands"), commandId=command_id)
        done = agent.device.sign(commandId=command_id, status="completed")
        await seat.publish(agent.up("results"), done)
        await watching.until_topic(agent.live("commands"), commandId=command_id, status="completed")
    for clean in (False, True):
        async with house.seat(agent, agent.down("#"), SYS_STATUS, clean_session=clean) as seat:
            await _birth(agent, seat)
            another = await house.order(agent)
            await seat.until_topic(agent.down("commands"), commandId=another)
            heard = await _all_before(house, seat)
        assert command_id not in {one.content["commandId"] for one in heard if "commands" in one.topic}


async def test_no_command_is_retained(house: House) -> None:
    agent, admin = await house.agent(), await house.operator("admin")
    async with house.seat(agent, agent.down("#")) as seat:
        await _birth(agent, seat)
        await house.order(agent)
        await seat.until_topic(agent.down("commands"))
    async with house.seat(admin, "pingup/v1/down/+/commands", SYS_STATUS) as watching:
        heard = await _all_before(house, watching)
    assert not [one for one in heard if one.topic == agent.down("commands")]


# --- receipts --------------------------------------------------------------------------------------


async def test_numbered_messages_get_a_signed_receipt(house: House) -> None:
    agent = await house.agent()
    async with house.seat(agent, agent.down("receipts")) as seat:
        for seq in (1, 2, 3):
            numbers = {"stream": "spool-1", "seq": seq, "first": 1}
            message = agent.device.sign(metrics={"cpu": seq}, status="online", **numbers)
            await seat.publish(agent.up("metrics"), message)
        told = await seat.until_topic(agent.down("receipts"), stream="spool-1", seq=3)
    content = agent.device.verify(told.payload)
    assert content["agentId"] == agent.id
    assert "timestamp" not in content
    assert abs(datetime.fromisoformat(content["updatedAt"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert not told.retain
