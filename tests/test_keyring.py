"""Who may speak counts at once here, and at a broker outside by the time that people have their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pingup.model import Principal, Role, Scope
from pingup.services.agents import Registration
from pingup.services.composition import Services
from tests.house import House

WISH = Registration(id="A", metadata={}, tags=())


class Herald:
    """Passes on what it is told, but not before the test lets it."""

    def __init__(self) -> None:
        self.told: list[tuple[Principal, str | None]] = []
        self.may_go = asyncio.Event()
        self.is_asked = asyncio.Event()

    def note(self, principal: Principal, text: str | None) -> None:
        self.told.append((principal, text))

    async def passed_on(self) -> None:
        self.is_asked.set()
        await self.may_go.wait()


async def _remove_first_token(services: Services) -> None:
    (token,) = await services.tokens.all()
    await services.tokens.remove(token.id)


CHANGES: dict[str, Callable[[Services], Coroutine[Any, Any, object]]] = {
    "register": lambda services: services.agents.register(WISH),
    "remove_agent": lambda services: services.agents.remove("old", purge=False),
    "make_token": lambda services: services.tokens.create("x", Scope.READ),
    "remove_token": _remove_first_token,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_people_have_their_answer_when_the_broker_outside_knows(
    house: House, change: Callable[[Services], Coroutine[Any, Any, object]]
) -> None:
    await house.register("old")
    await house.services.tokens.create("old", Scope.READ)
    herald = Herald()
    house.services.keyring.watch(herald)
    changing = house.crew.create_task(change(house.services))
    async with asyncio.timeout(10):
        await herald.is_asked.wait()
        assert len(herald.told) == 1
        assert not changing.done()
        herald.may_go.set()
        await changing


async def test_only_a_new_tokens_text_is_told(house: House) -> None:
    herald = Herald()
    herald.may_go.set()
    house.services.keyring.watch(herald)
    await house.services.agents.register(WISH)
    token, text = await house.services.tokens.create("x", Scope.ADMIN)
    await house.services.tokens.remove(token.id)
    assert [(one.role, one.id, told) for one, told in herald.told] == [
        (Role.AGENT, "A", None),
        (Role.OPERATOR, token.id, text),
        (Role.OPERATOR, token.id, None),
    ]
