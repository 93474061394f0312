"""What agents publish: it arrives whatever they speak, is stored once, and is shown to people."""

from __future__ import annotations

import json

import aiomqtt
import pytest

from tests.contract.brokers.cast import SYS_REJECTS
from tests.contract.brokers.houses import House
from tests.contract.brokers.members import Agent
from tests.contract.mqtt_packets import Will, connect, publish
from tests.devices import sign

pytestmark = pytest.mark.asyncio(loop_scope="package")

HOSTS = [{"ip": "192.168.1.1", "latency": 2, "ports": [80, 443]}]
VERSIONS = [
    pytest.param(aiomqtt.ProtocolVersion.V311, id="3.1.1"),
    pytest.param(aiomqtt.ProtocolVersion.V5, id="5"),
]


async def _speaks(house: House, agent: Agent, version: aiomqtt.ProtocolVersion) -> bool:
    """Whether this version of the protocol is spoken; one that is not must be refused."""
    if version in house.ways.versions:
        return True
    with pytest.raises(aiomqtt.MqttError):
        await house.client(agent, protocol=version).__aenter__()
    return False


@pytest.mark.parametrize("version", VERSIONS)
async def test_telemetry_is_stored_and_shown(house: House, version: aiomqtt.ProtocolVersion) -> None:
    agent, reader = await house.agent(), await house.operator()
    if not await _speaks(house, agent, version):
        return
    samples = [
        {"timestamp": agent.device.next_moment(), "metrics": {"cpu": cpu}, "status": "online"}
        for cpu in (10, 20)
    ]
    scan = {"hosts": HOSTS, "duration": 3}
    async with house.seat(reader, "pingup/v1/live/#") as seat, house.seat(agent, protocol=version) as talker:
        await talker.publish(agent.up("metrics"), agent.device.sample(1, temperature=21.5))
        await talker.publish(agent.up("metrics"), agent.device.sign(samples=samples))
        await talker.publish(agent.up("discovery"), agent.device.sign(discovery=scan))
        await seat.until_topic(agent.live("metrics"), cpu=1, temperature=21.5)
        await seat.until_topic(agent.live("metrics"), cpu=20)
        shown = await seat.until_topic(agent.live("discovery"), duration=3)
    assert shown.content["hosts"] == HOSTS
    assert sorted(await house.history(agent)) == [1, 10, 20]
    latest = (await house.call("GET", f"/discovery/{agent.id}/latest"))["discovery"]
    assert (latest["hosts"], latest["duration"]) == (HOSTS, 3)


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_an_agent_says_of_itself_and_its_orders_is_kept(
    house: House, version: aiomqtt.ProtocolVersion
) -> None:
    agent, reader = await house.agent(), await house.operator()
    if not await _speaks(house, agent, version):
        return
    command_id, say = await house.order(agent), agent.device.sign
    async with house.seat(reader, "pingup/v1/live/#") as seat, house.seat(agent, protocol=version) as talker:
        await talker.publish(agent.up("status"), say(session="s", status="online"), retain=True)
        await seat.until_topic(agent.live("presence"), status="online")
        await talker.publish(agent.up("config"), say(version=1, applied=False, error="no"))
        await talker.publish(agent.up("results"), say(commandId=command_id, status="completed", result=[3]))
        await talker.publish(agent.up("status"), say(session="s", status="offline"), retain=True)
        await seat.until_topic(agent.live("commands"), commandId=command_id, status="completed")
        await seat.until_topic(agent.live("presence"), status="offline")
    command = (await house.call("GET", f"/commands/{command_id}"))["command"]
    assert (command["status"], command["result"]) == ("completed", [3])
    reported = (await house.call("GET", f"/config/{agent.id}"))["reported"]
    assert (reported["version"], reported["applied"], reported["error"]) == (1, False, "no")


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_sample_is_stored_once_by_every_quality_of_service(house: House, qos: int) -> None:
    agent, reader = await house.agent(), await house.operator()
    async with house.seat(reader, agent.live("metrics")) as seat, house.seat(agent) as talker:
        for cpu in (7, 8):
            await talker.publish(agent.up("metrics"), agent.device.sample(cpu), qos=qos)
        await seat.until_topic(agent.live("metrics"), cpu=8)
    assert await house.history(agent) == [7, 8]


async def test_a_message_that_is_sent_again_is_stored_and_shown_once(house: House) -> None:
    agent, reader = await house.agent(), await house.operator()
    message = agent.device.sample(7)
    async with house.seat(reader, agent.live("metrics")) as seat, house.seat(agent) as talker:
        for _ in range(3):
            await talker.publish(agent.up("metrics"), message)
        await talker.publish(agent.up("metrics"), agent.device.sample(8))
        await seat.until_topic(agent.live("metrics"), cpu=8)
    assert [one.content["cpu"] for one in seat.heard] == [7, 8]
    assert await house.history(agent) == [7, 8]


def _wrong_messages(agent: Agent, other: Agent) -> dict[str, bytes]:
    """Messages that agent publishes as its own, by the reason for which each is refused."""
    good = {
        "agentId": agent.id,
        "timestamp": agent.device.next_moment(),
        "metrics": {"cpu": 1},
        "status": "up",
    }
    return {
        "no_signature": json.dumps(good).encode(),
        "bad_signature": sign(json.dumps(good), other.device.secret),
        "wrong_agent": sign(json.dumps({**good, "agentId": other.id}), agent.device.secret),
        "from_the_future": sign(
            json.dumps({**good, "timestamp": "2199-01-01T00:00:00Z"}), agent.device.secret
        ),
        "malformed": sign("{nonsense}", agent.device.secret),
    }


async def test_what_is_refused_is_acknowledged_and_shown_and_holds_up_nothing(house: House) -> None:
    agent, other, reader = await house.agent(), await house.agent(), await house.operator()
    wrong = _wrong_messages(agent, other)
    async with (
        house.seat(reader, SYS_REJECTS, agent.live("metrics")) as seat,
        house.seat(agent) as talker,
    ):
        for message in wrong.values():
            await talker.publish(agent.up("metrics"), message)
        await talker.publish(agent.up("nonsense"), agent.device.sample(1))
        await talker.publish(agent.up("metrics"), agent.device.sample(7))
        await seat.until_topic(agent.live("metrics"), cpu=7)
    rejects = [one.content for one in seat.heard if one.topic == SYS_REJECTS]
    shown = [(one["reason"], one["topic"]) for one in rejects if one.get("agentId") == agent.id]
    expected = [*((reason, agent.up("metrics")) for reason in wrong), ("unknown_kind", agent.up("nonsense"))]
    assert sorted(shown) == sorted(expected)
    assert await house.history(agent) == [7]


async def test_a_denied_publish_is_acknowledged_and_counted_by_a_broker_that_tells(house: House) -> None:
    agent, other, reader = await house.agent(), await house.agent(), await house.operator()
    async with (
        house.seat(reader, SYS_REJECTS, agent.live("metrics")) as seat,
        house.seat(agent) as talker,
    ):
        await talker.publish(other.up("metrics"), other.device.sample(1))
        await talker.publish(agent.up("metrics"), agent.device.sample(2))
        await seat.until_topic(agent.live("metrics"), cpu=2)
    denied = [one.content for one in seat.heard if other.id.encode() in one.payload]
    assert [(one["agentId"], one["reason"]) for one in denied] == [
        (agent.id, "not_allowed")
    ] * house.ways.counts_denied


async def test_an_agent_that_is_cut_off_is_offline_by_its_will(house: House) -> None:
    agent, reader = await house.agent(), await house.operator()
    birth = agent.device.sign(session="s1", status="online", interval=3600)
    will = Will(agent.up("status"), agent.device.sign(session="s1", status="offline"), retain=True)
    async with house.seat(reader, agent.live("presence")) as seat:
        async with house.peer(connect(agent.client_id, agent.user, agent.password, will=will)) as peer:
            peer.send(publish(agent.up("status"), birth, packet_id=1, retain=True))
            await seat.until_topic(agent.live("presence"), status="online")
        await seat.until_topic(agent.live("presence"), status="offline")
    assert (await house.call("GET", f"/agents/{agent.id}"))["agent"]["status"] == "offline"
