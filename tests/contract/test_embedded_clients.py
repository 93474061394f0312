"""The embedded broker with the client that agents use."""

from __future__ import annotations

import asyncio

import aiomqtt

from pingup.model import Scope
from pingup.topics import Live, down_commands, live
from tests.contract.broker_rig import PATIENCE, Rig, metrics, status


async def test_an_aiomqtt_client_publishes_subscribes_and_says_goodbye(rig: Rig) -> None:
    token = rig.register("A")
    will = aiomqtt.Will(status("A"), b"gone", qos=1, retain=True)
    async with (
        asyncio.timeout(PATIENCE),
        aiomqtt.Client(
            rig.broker.host, rig.broker.port, identifier="A", username="A", password=token, will=will
        ) as agent,
    ):
        for qos in (0, 1, 2):
            await agent.publish(metrics("A"), b"%d" % qos, qos=qos)
        await rig.ingest.took(3)
        await agent.subscribe(down_commands("A"), qos=1)
        delivery = asyncio.create_task(rig.broker.deliver(down_commands("A"), b"do it"))
        message = await anext(agent.messages)
        assert (message.payload, message.qos, message.retain) == (b"do it", 1, False)
        assert await delivery
        await agent.unsubscribe(down_commands("A"))
    assert [inbound.payload for inbound in rig.ingest.taken] == [b"0", b"1", b"2"]


async def test_an_aiomqtt_client_watches_live_values(rig: Rig) -> None:
    rig.broker.emit(live("A", Live.PRESENCE), b"online", retain=True)
    token = rig.admit("reader", Scope.READ)
    async with (
        asyncio.timeout(PATIENCE),
        aiomqtt.Client(rig.broker.host, rig.broker.port, username="operator", password=token) as tool,
    ):
        await tool.subscribe("pingup/v1/live/+/presence")
        message = await anext(tool.messages)
        assert (message.payload, message.retain) == (b"online", True)
