"""Promises of the registry that hold for any input."""

from __future__ import annotations

import asyncio
import string
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pingup.model import CommandStatus
from pingup.signing import Vault
from pingup.storage.sqlite import SQLiteRegistry
from tests.contract.registry_examples import NOW, after, agent, command, key

STATES = st.sampled_from(list(CommandStatus))
MOVES = st.lists(st.tuples(st.lists(STATES, max_size=4), STATES), max_size=12)
IDS = st.lists(
    st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=6), unique=True, max_size=20
)


@asynccontextmanager
async def _registry() -> AsyncIterator[SQLiteRegistry]:
    with tempfile.TemporaryDirectory() as directory:
        async with SQLiteRegistry.open(Path(directory) / "pingup.db", Vault(bytes(32))) as registry:
            await registry.agents.add(agent("a1"), key("a1"))
            yield registry


@settings(max_examples=30, deadline=None)
@given(moves=MOVES)
def test_a_command_only_ever_leaves_a_state_that_was_named_as_a_source(
    moves: list[tuple[list[CommandStatus], CommandStatus]],
) -> None:
    async def check() -> None:
        async with _registry() as registry:
            await registry.commands.add(command("c1"))
            states = [CommandStatus.PENDING]
            for number, (sources, target) in enumerate(moves):
                moved = await registry.commands.move("c1", sources, target, after(number))
                assert moved == (states[-1] in sources)
                states += [target] if moved else []
            found = await registry.commands.get("c1")
            assert found is not None
            assert found.status is states[-1]
            assert [change.status for change in found.history] == states

    asyncio.run(check())


@settings(max_examples=30, deadline=None)
@given(ids=IDS, seconds=st.lists(st.integers(0, 3), min_size=20, max_size=20), limit=st.integers(1, 7))
def test_pages_of_commands_put_together_are_all_of_them_once(
    ids: list[str], seconds: list[int], limit: int
) -> None:
    created = {one: after(second) for one, second in zip(ids, seconds, strict=False)}

    async def check() -> None:
        async with _registry() as registry:
            await asyncio.gather(
                *(registry.commands.add(command(one, created_at=at)) for one, at in created.items())
            )
            for agent_id in (None, "a1"):
                seen = await _all_commands(registry, agent_id, limit)
                assert seen == sorted(created, key=lambda one: (created[one], one), reverse=True)

    asyncio.run(check())


async def _all_commands(registry: SQLiteRegistry, agent_id: str | None, limit: int) -> list[str]:
    seen: list[str] = []
    place: tuple[datetime, str] | None = None
    while page := await registry.commands.page(agent_id=agent_id, status=None, limit=limit, after=place):
        seen += [found.command_id for found in page]
        place = (page[-1].created_at, page[-1].command_id)
    return seen


@settings(max_examples=30, deadline=None)
@given(ids=IDS.filter(lambda ids: "a1" not in ids), limit=st.integers(1, 7))
def test_pages_of_agents_put_together_are_all_of_them_once(ids: list[str], limit: int) -> None:
    async def check() -> None:
        async with _registry() as registry:
            await asyncio.gather(*(registry.agents.add(agent(one), key(one)) for one in ids))
            seen: list[str] = []
            place: str | None = None
            while page := await registry.agents.page(
                status=None, tag=None, query=None, limit=limit, after=place
            ):
                seen += [found.id for found in page]
                place = seen[-1]
            assert seen == sorted([*ids, "a1"])

    asyncio.run(check())


@settings(max_examples=30, deadline=None)
@given(
    metadata=st.dictionaries(
        st.text(max_size=5), st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1)
    ),
    tags=st.lists(st.text(max_size=8), max_size=4),
    name=st.text(max_size=20),
)
def test_any_text_comes_back_as_it_was_given(metadata: dict[str, object], tags: list[str], name: str) -> None:
    async def check() -> None:
        async with _registry() as registry:
            changed = await registry.agents.change("a1", name=name, metadata=metadata, tags=tags)
            found = await registry.agents.get("a1")
            assert changed == found
            assert found is not None
            assert (found.name, found.metadata, found.tags) == (name, metadata, tuple(tags))
            config = await registry.configs.add("a1", metadata, NOW, 0)
            assert await registry.configs.get("a1") == config

    asyncio.run(check())
