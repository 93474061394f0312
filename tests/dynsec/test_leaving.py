"""Who goes leaves nothing at a real Mosquitto: no connection, no session, no retained birth."""

from __future__ import annotations

import logging

import pytest

from pingup.brokers.dynsec import DynsecAccounts
from pingup.model import Principal, Role
from tests.dynsec.cast import (
    ADMIN,
    EVERYBODY,
    ONE,
    OTHER,
    READER,
    SERVER,
    account,
    is_let_in,
    keeping_session,
    seat,
)
from tests.dynsec.visitors import client, control, retained, until_disconnected
from tests.mosquitto import Dynsec

pytestmark = pytest.mark.mosquitto


async def test_a_removed_agent_is_disconnected_at_once_and_shut_out(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    await store.reconcile(EVERYBODY)
    async with seat(broker, ONE) as agent:
        done = await store.settle(ONE.username, None)
        assert done.removed == ("agent-1",)
        await until_disconnected(agent)
    assert not await is_let_in(broker, ONE)
    assert await is_let_in(broker, OTHER)


async def test_nothing_that_a_removed_agent_left_stays_at_the_broker(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    await store.reconcile(EVERYBODY)
    kept = keeping_session()
    async with seat(broker, SERVER) as server:
        async with client(broker.port, "agent-1", ONE.password, clean_start=False, properties=kept) as agent:
            await agent.subscribe("pingup/v1/down/agent-1/#", qos=1)
            await agent.publish("pingup/v1/up/agent-1/status", "a birth", qos=1, retain=True)
        await server.publish("pingup/v1/down/agent-1/commands", "for the old one only", qos=1)
    await store.rest()
    assert await retained(broker) == {"pingup/v1/up/agent-1/status"}
    assert (await store.settle("agent-1", None)).removed == ("agent-1",)
    await store.rest()
    assert await retained(broker) == set()
    # The same name again, and a session that would be taken up if there were one.
    await store.settle("agent-1", ONE)
    async with (
        client(broker.port, "agent-1", ONE.password, clean_start=False, properties=kept) as agent,
        seat(broker, SERVER) as server,
    ):
        await agent.subscribe("pingup/v1/sys/status", qos=1)
        await server.publish("pingup/v1/down/agent-1/commands", "nobody has asked for it", qos=1)
        await server.publish("pingup/v1/sys/status", "last", qos=1)
        message = await anext(aiter(agent.messages))
    assert message.payload == b"last"


async def test_many_that_are_removed_at_once_leave_nothing_either(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    fleet = [account(Principal(Role.AGENT, f"agent-{number}")) for number in range(25)]
    await store.reconcile([*fleet, READER, ADMIN])
    for agent in fleet:
        async with seat(broker, agent) as device:
            await device.publish(f"pingup/v1/up/{agent.username}/status", "a birth", qos=1, retain=True)
    await store.rest()
    assert len(await retained(broker)) == len(fleet)
    assert len((await store.reconcile([ADMIN])).removed) == len(fleet) + 1
    await store.rest()
    assert await retained(broker) == set()


async def test_an_agent_that_cannot_be_cleared_away_is_removed_all_the_same(
    broker: Dynsec, store: DynsecAccounts, caplog: pytest.LogCaptureFixture
) -> None:
    await store.reconcile(EVERYBODY)
    async with seat(broker, ONE) as agent:
        await agent.publish("pingup/v1/up/agent-1/status", "a birth", qos=1, retain=True)
    await store.rest()
    await control(broker, {"command": "disableClient", "username": "agent-1"})
    with caplog.at_level(logging.WARNING):
        assert (await store.settle("agent-1", None)).removed == ("agent-1",)
    assert "left something at the broker, like agent-1" in caplog.text
    (answer,) = await control(broker, {"command": "getClient", "username": "agent-1"})
    assert answer["error"] == "Client not found"
