"""Agents are registered with credentials of their own, and removed without a trace."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pingup import signing
from pingup.errors import Conflict, Invalid, NotFound, PreconditionFailed, Reason, Rejected, Unavailable
from pingup.model import Algorithm, ConfigVersion, Role, Scope
from pingup.services.agents import Registration
from pingup.topics import Kind, Live, down_config, live, up
from tests.conftest import ManualClock
from tests.house import SECRET, House, open_house


def wish(agent_id: str = "A", **members: Any) -> Registration:
    return Registration(**{"id": agent_id, "metadata": {}, "tags": (), **members})


async def test_an_agent_gets_a_secret_and_the_token_that_belongs_to_it(house: House) -> None:
    agent, credentials = await house.services.agents.register(wish(name="Gate", tags=("site-a",)))
    assert credentials.secret is not None
    assert credentials.token == signing.token_of(credentials.secret)
    assert credentials.algorithm is Algorithm.HMAC_SHA256
    assert agent == await house.services.agents.get("A")
    principal = house.services.keyring.login("A", credentials.token)
    assert principal is not None
    assert (principal.role, principal.id) == (Role.AGENT, "A")


async def test_an_agents_secret_opens_no_door_unless_it_is_allowed_to(house: House) -> None:
    await house.register()
    assert house.services.keyring.who_is(SECRET) is None
    assert house.services.keyring.login("A", SECRET) is None
    assert house.services.keyring.login("B", signing.token_of(SECRET)) is None


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"agent_id": "server"}, "id"),
        ({"agent_id": "a/b"}, "id"),
        ({"secret": "x" * 31}, "secret"),
        ({"secret": "x" * 1025}, "secret"),
        ({"public_key": "AAAA"}, "publicKey"),
        ({"public_key": "é"}, "publicKey"),
        ({"public_key": "A" * 44, "secret": "x" * 32}, "secret"),
    ],
)
async def test_a_bad_registration_names_its_field(house: House, members: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        await house.services.agents.register(wish(**members))
    assert field in caught.value.errors


async def test_an_id_and_a_secret_belong_to_one_agent_only(house: House) -> None:
    await house.register("A")
    with pytest.raises(Conflict):
        await house.services.agents.register(wish("A"))
    with pytest.raises(Conflict):
        await house.services.agents.register(wish("B", secret=SECRET))


async def test_a_removed_agent_is_gone_from_every_place(house: House) -> None:
    await house.register()
    await house.services.configs.set("A", {"interval": 5})
    await house.services.commands.create("A", "ping", {})
    message = house.metrics()
    await house.services.agents.remove("A", purge=False)
    with pytest.raises(Rejected) as caught:
        await house.send(Kind.METRICS, message)
    assert caught.value.reason is Reason.UNKNOWN_AGENT
    assert house.services.keyring.login("A", signing.token_of(SECRET)) is None
    assert house.downlink.ended == ["A"]
    for topic in (
        down_config("A"),
        live("A", Live.PRESENCE),
        live("A", Live.METRICS),
        up("A", Kind.STATUS),
    ):
        assert (house.downlink.on(topic)[-1], house.downlink.retained(topic)[-1]) == (b"", True)
    assert await house.services.commands.page(agent_id="A", status=None, limit=9, after=None) == []
    for call in (house.services.agents.get("A"), house.services.agents.remove("A", purge=False)):
        with pytest.raises(NotFound):
            await call
    await house.register()
    assert (await house.services.configs.get("A")).version == 0


async def test_agents_and_tokens_are_known_after_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    async with open_house(tmp_path, clock) as first:
        await first.register()
        token, text = await first.services.tokens.create("laptop", Scope.READ)
    async with open_house(tmp_path, clock) as second:
        assert (await second.send(Kind.METRICS, second.metrics())).stored == 1
        principal = second.services.keyring.who_is(text)
        assert principal is not None
        assert (principal.id, principal.scope) == (token.id, Scope.READ)


async def test_a_token_works_until_it_expires_or_is_revoked(house: House) -> None:
    until = house.clock.at.replace(hour=11)
    _, short = await house.services.tokens.create("short", Scope.ADMIN, until)
    token, long = await house.services.tokens.create("long", Scope.COMMAND)
    assert short.startswith("pgp_")
    assert house.services.keyring.login("operator", short) is not None
    house.clock.advance(hours=1)
    assert house.services.keyring.who_is(short) is None
    used = {one.id: one.last_used_at for one in await house.services.tokens.all()}
    assert used[token.id] is None
    assert house.services.keyring.who_is(long) is not None
    used = {one.id: one.last_used_at for one in await house.services.tokens.all()}
    assert used[token.id] == house.clock.now()
    await house.services.tokens.remove(token.id)
    assert house.services.keyring.who_is(long) is None
    assert house.downlink.ended == [token.id]


async def test_configurations_are_versioned_signed_and_retained(house: House) -> None:
    await house.register()
    configs = house.services.configs
    assert (await configs.get("A")).version == 0
    assert (await configs.set("A", {"interval": 5})).version == 1
    with pytest.raises(PreconditionFailed):
        await configs.set("A", {"interval": 6}, expected=0)
    assert (await configs.set("A", {"interval": 6}, expected=1)).version == 2
    assert (await configs.roll_back("A", 1)).config == {"interval": 5}
    assert [version.version for version in await configs.history("A", 10)] == [3, 2, 1]
    with pytest.raises(Invalid):
        await configs.set("A", {"x": "y" * 70_000})
    with pytest.raises(NotFound):
        await configs.get("A", 9)
    async with asyncio.timeout(5):
        while not any(b'"version":3' in message for message in house.downlink.on(down_config("A"))):
            house.downlink.news.clear()
            await house.downlink.news.wait()
    message = house.downlink.on(down_config("A"))[-1]
    key = house.services.keyring.key_of("A")
    assert key is not None
    signing.verify(message, key)
    assert house.downlink.retained(down_config("A"))[-1]


async def test_an_agent_that_comes_back_while_its_old_telemetry_is_purged_is_let_in(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def has(agent_id: str) -> bool:
        await house.register(agent_id)
        return True

    monkeypatch.setattr(house.telemetry, "has", has)
    await house.services.agents.remove("A", purge=True)
    assert house.services.keyring.login("A", signing.token_of(SECRET)) is not None


async def test_a_configuration_is_published_once_the_registry_can_be_read_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.register()
    monkeypatch.setattr(house.services.configs._errands, "_retry_after", 0.001)
    read, failed = house.registry.configs.get, asyncio.Event()

    async def get(agent_id: str, version: int | None = None) -> ConfigVersion | None:
        if not failed.is_set():
            failed.set()
            raise Unavailable("disk full")
        return await read(agent_id, version)

    monkeypatch.setattr(house.registry.configs, "get", get)
    await house.services.configs.set("A", {"interval": 5})
    async with asyncio.timeout(5):
        while not house.downlink.on(down_config("A")):
            house.downlink.news.clear()
            await house.downlink.news.wait()
    assert failed.is_set()
