"""A configuration stays retained, also on a broker that has forgotten what it retained."""

from __future__ import annotations

import asyncio

import pytest

from pingup.errors import Unavailable
from pingup.services import configs
from pingup.topics import down_config
from tests.house import House

TOPIC = down_config("A")


async def published(house: House, count: int) -> list[bytes]:
    """Wait until the configuration of agent A was published so many times."""
    async with asyncio.timeout(5):
        while len(house.downlink.on(TOPIC)) < count:
            house.downlink.news.clear()
            await house.downlink.news.wait()
    return house.downlink.on(TOPIC)


async def test_what_a_broker_has_forgotten_is_retained_anew(house: House) -> None:
    await house.register()
    await house.services.configs.set("A", {"interval": 10})
    await published(house, 1)
    house.services.configs.forgotten()
    first, again = await published(house, 2)
    assert first == again
    assert house.downlink.retained(TOPIC) == [True, True]


async def test_it_is_retained_later_when_the_registry_is_down(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.register()
    await house.services.configs.set("A", {"interval": 10})
    await published(house, 1)
    tries: list[None] = []
    load = house.services.configs.load

    async def failing_once() -> None:
        tries.append(None)
        if len(tries) == 1:
            raise Unavailable("the registry cannot work now")
        await load()

    monkeypatch.setattr(configs, "RETRY_AFTER", 0.01)
    monkeypatch.setattr(house.services.configs, "load", failing_once)
    house.services.configs.forgotten()
    await published(house, 2)
    assert len(tries) == 2
