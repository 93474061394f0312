"""Accounts in a real Mosquitto with dynamic security, judged by who gets in and what arrives."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pingup.brokers.dynsec import DynsecAccounts
from pingup.brokers.dynsec.wire import REQUESTS
from pingup.errors import NotAllowed, Unavailable
from pingup.model import Account, Obstacle, Principal, Reconciled, Role
from tests.dynsec.cast import (
    EVERYBODY,
    NEW,
    OLD,
    ONE,
    OTHER,
    READER,
    SERVER,
    THEIRS,
    account,
    is_let_in,
    keeping_session,
    seat,
    store_at,
    store_on,
)
from tests.dynsec.visitors import client, comes_in, control, until_disconnected
from tests.mosquitto import HOST, LISTENER, Dynsec, running_dynsec, running_mosquitto

pytestmark = pytest.mark.mosquitto


async def test_everybody_comes_in_with_their_password_and_nobody_without(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    done = await store.reconcile(EVERYBODY)
    assert set(done.created) == {one.username for one in EVERYBODY}
    for one in EVERYBODY:
        assert await is_let_in(broker, one)
        assert not await is_let_in(broker, one, "another password")


async def test_a_second_time_nothing_is_changed_and_nobody_disconnected(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    await store.reconcile(EVERYBODY)
    async with seat(broker, ONE) as agent:
        again = await store.reconcile(EVERYBODY)
        assert again == Reconciled()
        await agent.publish("pingup/v1/up/agent-1/metrics", "still here", qos=1)


async def test_what_an_agent_sends_reaches_the_server_and_nothing_of_the_other(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    await store.reconcile(EVERYBODY)
    async with seat(broker, SERVER) as server, seat(broker, ONE) as one, seat(broker, OTHER) as other:
        await server.subscribe("pingup/v1/up/#", qos=1)
        for agent in (one, other):
            await agent.publish("pingup/v1/up/agent-2/metrics", "from agent-2 only", qos=1)
        await one.publish("pingup/v1/up/agent-1/metrics", "last", qos=1)
        arrived = [await anext(aiter(server.messages)) for _ in range(2)]
    assert [message.payload for message in arrived] == [b"from agent-2 only", b"last"]


async def test_a_subscription_beyond_ones_own_place_is_refused(broker: Dynsec, store: DynsecAccounts) -> None:
    await store.reconcile(EVERYBODY)
    async with seat(broker, ONE) as agent:
        for beyond in ("#", "$SYS/#", "pingup/#", "pingup/v1/down/+/commands", "$share/g/pingup/#"):
            (code,) = await agent.subscribe(beyond, qos=1)
            assert not isinstance(code, int)
            assert code.is_failure, beyond
        for own in ("pingup/v1/down/agent-1/#", "pingup/v1/sys/status"):
            (code,) = await agent.subscribe(own, qos=1)
            assert not isinstance(code, int)
            assert not code.is_failure, own


async def test_it_makes_no_difference_that_the_brokers_defaults_allow_everything(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    kinds = ("publishClientSend", "publishClientReceive", "subscribe")
    await control(
        broker,
        {"command": "setDefaultACLAccess", "acls": [{"acltype": kind, "allow": True} for kind in kinds]},
    )
    await store.reconcile(EVERYBODY)
    async with seat(broker, ONE) as agent, seat(broker, SERVER) as server:
        for beyond in ("#", "$SYS/#", "pingup/v1/up/#"):
            (code,) = await agent.subscribe(beyond)
            assert not isinstance(code, int)
            assert code.is_failure, beyond
        await server.subscribe("pingup/v1/up/#", qos=1)
        await agent.publish("pingup/v1/up/agent-2/metrics", "forged", qos=1)
        await agent.publish("pingup/v1/up/agent-1/metrics", "last", qos=1)
        message = await anext(aiter(server.messages))
    assert message.payload == b"last"


async def test_a_session_from_before_brings_an_agent_nothing_of_others(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    await control(
        broker,
        {"command": "createRole", "rolename": "all", "acls": [_allow("subscribePattern", "#")]},
        {
            "command": "createClient",
            "username": "agent-1",
            "password": "before",
            "roles": [{"rolename": "all"}],
        },
    )
    kept = keeping_session()
    async with client(broker.port, "agent-1", "before", properties=kept) as before:
        await before.subscribe("pingup/#", qos=1)
    await control(broker, {"command": "deleteClient", "username": "agent-1"})
    await store.reconcile(EVERYBODY)
    async with (
        client(broker.port, "agent-1", ONE.password, clean_start=False, properties=kept) as agent,
        seat(broker, SERVER) as server,
    ):
        for receiver in ("agent-2", "agent-1"):
            await server.publish(f"pingup/v1/down/{receiver}/commands", f"for {receiver}", qos=1)
        message = await anext(aiter(agent.messages))
    assert message.payload == b"for agent-1"


def _allow(acltype: str, topic: str) -> dict[str, object]:
    return {"acltype": acltype, "topic": topic, "allow": True}


async def test_a_new_password_ends_the_connection_of_the_old_one(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    await store.reconcile(EVERYBODY)
    rotated = account(ONE.principal, "a new password", NEW)
    async with seat(broker, ONE) as agent:
        assert (await store.settle(ONE.username, rotated)).changed == ("agent-1",)
        await until_disconnected(agent)
    assert await is_let_in(broker, rotated)
    assert not await is_let_in(broker, ONE)


async def test_one_account_is_brought_without_looking_at_the_others(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    await store.reconcile([SERVER])
    assert (await store.settle(ONE.username, ONE)).created == ("agent-1",)
    assert not (await store.settle(ONE.username, ONE)).created
    assert await is_let_in(broker, ONE)
    assert await is_let_in(broker, SERVER)


async def test_one_account_is_brought_into_a_broker_that_knows_nobody(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    await store.settle(ONE.username, ONE)
    assert await is_let_in(broker, ONE)


async def test_without_the_listeners_option_a_client_id_is_still_its_owners(
    tmp_path: Path, broker: Dynsec, store: DynsecAccounts
) -> None:
    await store.reconcile(EVERYBODY)
    await store.rest()
    accounts = (broker.mosquitto.directory / "dynamic-security.json").read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "dynamic-security.json").write_bytes(accounts)
    config = (broker.mosquitto.directory / "mosquitto.conf").read_text()
    config = config.replace("use_username_as_clientid true", "").replace(
        f"listener {broker.port} {HOST}", LISTENER
    )
    async with running_mosquitto(elsewhere, config.replace("\nuser root\n", "\n")) as unbound:
        for thief in (ONE, READER):
            for stolen in ("server", "agent-2"):
                assert not await comes_in(unbound.port, thief.username, thief.password, stolen)
            assert await comes_in(unbound.port, thief.username, thief.password)


async def test_clients_of_other_people_are_never_touched(broker: Dynsec, store: DynsecAccounts) -> None:
    await control(
        broker,
        {"command": "createRole", "rolename": "gardener", "acls": []},
        {
            "command": "createClient",
            "username": "agent-1",
            "password": "somebody else's",
            "roles": [{"rolename": "gardener"}],
        },
        {"command": "createClient", "username": "sprinkler", "password": "water"},
    )
    done = await store.reconcile(EVERYBODY)
    assert [(one.username, one.obstacle) for one in done.unsettled] == [("agent-1", Obstacle.NAME_TAKEN)]
    assert (await store.reconcile([])).removed
    answers = await control(
        broker, {"command": "listClients"}, {"command": "getClient", "username": "agent-1"}
    )
    assert answers[0]["data"] == {"totalCount": 3, "clients": ["admin", "agent-1", "sprinkler"]}
    assert answers[1]["data"] == {
        "client": {"username": "agent-1", "roles": [{"rolename": "gardener"}], "groups": []}
    }
    assert await is_let_in(broker, ONE, "somebody else's")


async def test_another_pingups_accounts_are_never_touched(broker: Dynsec, store: DynsecAccounts) -> None:
    await store.reconcile([SERVER, ONE])
    other = store_on(broker.port, broker.admin, broker.password, instance=THEIRS)
    namesake = account(ONE.principal, "the other one's", NEW)
    async with seat(broker, ONE) as agent:
        done = await other.reconcile([namesake, OTHER])
        assert done.created == (OTHER.username,)
        assert [(one.username, one.obstacle) for one in done.unsettled] == [("agent-1", Obstacle.NAME_TAKEN)]
        assert not (await other.settle(SERVER.username, None)).removed
        assert (await other.reconcile([])).removed == (OTHER.username,)
        await agent.publish("pingup/v1/up/agent-1/metrics", "still here", qos=1)
    await other.rest()
    assert await store.reconcile([SERVER, ONE]) == Reconciled()
    assert not await is_let_in(broker, namesake)
    assert not await is_let_in(broker, OTHER)


async def test_an_agent_that_somebody_else_removed_is_brought_back(
    broker: Dynsec, store: DynsecAccounts
) -> None:
    await store.reconcile(EVERYBODY)
    await store.rest()
    await control(broker, {"command": "deleteClient", "username": "agent-1"})
    assert (await store.reconcile(EVERYBODY)).created == ("agent-1",)
    assert await is_let_in(broker, ONE)


async def test_hundreds_of_accounts_are_listed_page_by_page(broker: Dynsec, store: DynsecAccounts) -> None:
    fleet = [account(Principal(Role.AGENT, f"agent-{number:03}")) for number in range(3)]
    await store.reconcile(fleet)
    strangers: list[dict[str, object]] = [
        {"command": "createClient", "username": f"b{number}"} for number in range(600)
    ]
    for start in range(0, 600, 100):
        await control(broker, *strangers[start : start + 100])
    assert not (await store.reconcile(fleet)).created
    assert set((await store.reconcile([])).removed) == {one.username for one in fleet}


async def test_another_administrator_at_work_is_no_disturbance(broker: Dynsec, store: DynsecAccounts) -> None:
    await control(broker, {"command": "createClient", "username": "colleague", "password": "colleague"})
    await control(broker, {"command": "addClientRole", "username": "colleague", "rolename": "admin"})
    colleague = Account("colleague", ONE.principal, OLD, "colleague")
    async with seat(broker, colleague) as other:
        await store.reconcile([SERVER])
        async with asyncio.TaskGroup() as both:
            work = both.create_task(store.reconcile(EVERYBODY))
            while not work.done():
                # Many at a time, so that answers to them come between our question and its answer.
                listing = json.dumps({"commands": [{"command": "listClients"}] * 20})
                await asyncio.gather(*(other.publish(REQUESTS, listing, qos=1) for _ in range(20)))
        assert set(work.result().created) == {one.username for one in EVERYBODY if one is not SERVER}


async def test_who_is_no_administrator_is_not_allowed(broker: Dynsec, store: DynsecAccounts) -> None:
    await store.reconcile([ONE])
    assert ONE.password is not None
    impostor = store_at(broker, ONE.username, ONE.password)
    with pytest.raises(NotAllowed, match="not authorised"):
        await impostor.reconcile(EVERYBODY)


async def test_a_wrong_password_is_not_allowed(broker: Dynsec) -> None:
    with pytest.raises(NotAllowed, match="not authorised"):
        await store_at(broker, password="wrong").reconcile(EVERYBODY)


async def test_a_broker_that_is_away_is_unavailable_and_found_again(tmp_path: Path) -> None:
    async with running_dynsec(tmp_path) as broker:
        store = store_at(broker)
        await store.reconcile([ONE])
    with pytest.raises(Unavailable) as refusal:
        await store.reconcile([ONE, OTHER])
    assert not isinstance(refusal.value, NotAllowed)


async def test_a_connection_that_was_cut_is_made_anew(broker: Dynsec, store: DynsecAccounts) -> None:
    await store.reconcile([ONE])
    await control(broker, {"command": "listRoles"})  # the same user, so this one ends ours
    done = await store.reconcile([ONE, OTHER])
    assert done.created == ("agent-2",)


async def test_a_broker_without_the_plugin_is_named_as_such(tmp_path: Path) -> None:
    config = f"\n{LISTENER}\nallow_anonymous true\nlog_dest stderr\n"
    async with running_mosquitto(tmp_path, config) as plain:
        store = store_on(plain.port, "admin", "any", within=0.2)
        with pytest.raises(Unavailable, match="has it the dynamic security plugin"):
            await store.reconcile([ONE])
        await store.rest()


async def test_accounts_outlast_a_restart_of_the_broker(tmp_path: Path) -> None:
    async with running_dynsec(tmp_path) as broker:
        store = store_at(broker)
        await store.reconcile(EVERYBODY)
        await store.rest()
    async with running_dynsec(tmp_path) as broker:
        assert await is_let_in(broker, ONE)
        store = store_at(broker)
        assert not (await store.reconcile(EVERYBODY)).created
        await store.rest()
