"""What every registry promises, against a real one in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from pingup.errors import Conflict, NotFound, PreconditionFailed
from pingup.model import (
    Agent,
    AgentKey,
    Algorithm,
    CommandStatus,
    ConfigReport,
    Presence,
    ReportedConfig,
    StatusChange,
)
from pingup.ports import Registry
from pingup.signing import Vault, hash_token
from pingup.storage.sqlite import SQLiteRegistry
from tests.contract.registry_examples import NOW, after, agent, command, key, token

PENDING, SENT, COMPLETED = CommandStatus.PENDING, CommandStatus.SENT, CommandStatus.COMPLETED


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with SQLiteRegistry.open(tmp_path / "pingup.db", Vault(Vault.new_key())) as opened:
        yield opened


async def _ids(registry: Registry, **wanted: str | Presence) -> list[str]:
    status, tag, query = wanted.get("status"), wanted.get("tag"), wanted.get("query")
    assert status is None or isinstance(status, Presence)
    page = await registry.agents.page(status=status, tag=tag, query=query, limit=100, after=None)
    return [found.id for found in page]


# --- agents ----------------------------------------------------------------------------------------


async def test_an_agent_comes_back_as_it_was_added(registry: Registry) -> None:
    whole = Agent(
        "a1",
        "Kitchen",
        Presence.ONLINE,
        after(1),
        {"a": [1, {"b": None}]},
        ("x", "ü"),
        Algorithm.ED25519,
        NOW,
    )
    whole_key = AgentKey("a1", Algorithm.ED25519, None, b"p" * 32, b"h" * 32, "a token")
    await registry.agents.add(whole, whole_key)
    assert await registry.agents.get("a1") == whole
    assert await registry.agents.keys() == [whole_key]


async def test_an_agent_with_the_least_comes_back_as_it_was_added(registry: Registry) -> None:
    await registry.agents.add(agent("a1"), key("a1"))
    assert await registry.agents.get("a1") == agent("a1")
    assert await registry.agents.keys() == [key("a1")]


async def test_an_unknown_agent_is_none(registry: Registry) -> None:
    assert await registry.agents.get("nobody") is None
    assert await registry.agents.change("nobody", name="x") is None
    assert await registry.agents.remove("nobody") is False


async def test_the_same_agent_twice_is_a_conflict_and_leaves_the_first(registry: Registry) -> None:
    await registry.agents.add(agent("a1", name="first"), key("a1"))
    with pytest.raises(Conflict, match="agent a1 exists already"):
        await registry.agents.add(agent("a1", name="second"), key("other"))
    assert await registry.agents.get("a1") == agent("a1", name="first")


async def test_another_agents_secret_is_a_conflict(registry: Registry) -> None:
    await registry.agents.add(agent("a1"), key("a1"))
    with pytest.raises(Conflict, match="another agent has this secret"):
        await registry.agents.add(agent("a2"), key("a1"))
    assert await registry.agents.get("a2") is None


async def test_a_change_leaves_what_is_not_given(registry: Registry) -> None:
    await registry.agents.add(agent("a1", name="old", tags=("t",)), key("a1"))
    changed = await registry.agents.change("a1", metadata={"room": 1})
    assert changed == msgspec.structs.replace(agent("a1", name="old", tags=("t",)), metadata={"room": 1})
    changed = await registry.agents.change("a1", name="new", tags=())
    assert changed is not None
    assert (changed.name, changed.metadata, changed.tags) == ("new", {"room": 1}, ())
    assert await registry.agents.get("a1") == changed


async def test_agents_are_found_by_status_tag_and_text(registry: Registry) -> None:
    await registry.agents.add(agent("sensor-1", name="Küche 100%", tags=("home", "x")), key("1"))
    await registry.agents.add(agent("sensor-2", tags=("homework",)), key("2"))
    await registry.agents.add(agent("Server-x", name="under_score"), key("3"))
    await registry.agents.mark([("sensor-2", Presence.ONLINE, NOW)])
    assert await _ids(registry) == ["Server-x", "sensor-1", "sensor-2"]
    assert await _ids(registry, status=Presence.ONLINE) == ["sensor-2"]
    assert await _ids(registry, status=Presence.OFFLINE) == ["Server-x", "sensor-1"]
    assert await _ids(registry, tag="home") == ["sensor-1"]
    assert await _ids(registry, query="SE") == ["Server-x", "sensor-1", "sensor-2"]
    assert await _ids(registry, query="KÜCHE") == ["sensor-1"]
    assert await _ids(registry, query="SENSOR", status=Presence.OFFLINE, tag="x") == ["sensor-1"]


@pytest.mark.parametrize(("query", "found"), [("%", ["a1"]), ("_", ["a2"]), ("\\", []), ("' OR 1=1", [])])
async def test_signs_that_mean_something_to_sql_are_searched_as_they_are(
    registry: Registry, query: str, found: list[str]
) -> None:
    await registry.agents.add(agent("a1", name="100%"), key("a1"))
    await registry.agents.add(agent("a2", name="under_score"), key("a2"))
    assert await _ids(registry, query=query) == found


async def test_a_page_of_agents_goes_on_after_the_last_one(registry: Registry) -> None:
    for number in range(5):
        await registry.agents.add(agent(f"a{number}"), key(f"a{number}"))
    page = await registry.agents.page(status=None, tag=None, query=None, limit=2, after="a1")
    assert [found.id for found in page] == ["a2", "a3"]


async def test_many_agents_are_marked_together(registry: Registry) -> None:
    for name in ("a1", "a2", "a3"):
        await registry.agents.add(agent(name), key(name))
    await registry.agents.mark([("a1", Presence.ONLINE, after(1)), ("a2", Presence.ONLINE, after(2))])
    await registry.agents.mark([("a1", Presence.OFFLINE, None), ("unknown", Presence.ONLINE, NOW)])
    await registry.agents.mark([])
    page = await registry.agents.page(status=None, tag=None, query=None, limit=10, after=None)
    assert [(found.status, found.last_seen) for found in page] == [
        (Presence.OFFLINE, after(1)),
        (Presence.ONLINE, after(2)),
        (Presence.OFFLINE, None),
    ]


async def test_a_removed_agent_takes_all_that_was_its_own_along(registry: Registry, tmp_path: Path) -> None:
    for name in ("a1", "a2"):
        await registry.agents.add(agent(name), key(name))
        await registry.commands.add(command(f"c-{name}", name))
        await registry.configs.add(name, {"of": name}, NOW, None)
        await registry.configs.report(ConfigReport(name, NOW, 1, True), NOW)
    assert await registry.agents.remove("a1") is True
    assert await registry.agents.get("a1") is None
    assert await registry.commands.get("c-a1") is None
    assert await registry.configs.get("a1") is None
    assert await registry.configs.history("a1", 10) == []
    assert await registry.configs.reported("a1") is None
    assert await registry.commands.get("c-a2") is not None
    with closing(sqlite3.connect(tmp_path / "pingup.db")) as connection:
        for table in ("command_changes", "commands", "config_reports", "config_versions", "configs"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,), table
    assert len(await registry.configs.history("a2", 10)) == 1


# --- commands --------------------------------------------------------------------------------------


@pytest.fixture
async def a1(registry: Registry) -> Registry:
    """A registry with the agents a1 and a2."""
    await registry.agents.add(agent("a1"), key("a1"))
    await registry.agents.add(agent("a2"), key("a2"))
    return registry


async def test_a_command_comes_back_with_its_first_step(a1: Registry) -> None:
    await a1.commands.add(command("c1"))
    expected = msgspec.structs.replace(command("c1"), history=(StatusChange(PENDING, NOW),))
    assert await a1.commands.get("c1") == expected
    assert await a1.commands.get("c2") is None


async def test_a_command_to_an_unknown_agent_is_not_found(a1: Registry) -> None:
    with pytest.raises(NotFound, match="there is no agent nobody"):
        await a1.commands.add(command("c1", "nobody"))
    assert await a1.commands.get("c1") is None


async def test_the_same_command_twice_is_a_conflict(a1: Registry) -> None:
    await a1.commands.add(command("c1"))
    with pytest.raises(Conflict, match="command c1 exists already"):
        await a1.commands.add(command("c1", "a2"))


async def test_a_command_keeps_each_step_and_its_result(a1: Registry) -> None:
    await a1.commands.add(command("c1"))
    assert await a1.commands.move("c1", [PENDING], SENT, after(1))
    assert await a1.commands.move("c1", [PENDING, SENT], COMPLETED, after(2), '{"exit": 0}')
    found = await a1.commands.get("c1")
    assert found is not None
    assert (found.status, bytes(found.result)) == (COMPLETED, b'{"exit": 0}')
    steps = (StatusChange(PENDING, NOW), StatusChange(SENT, after(1)), StatusChange(COMPLETED, after(2)))
    assert found.history == steps


async def test_a_command_in_another_state_stays_as_it_is(a1: Registry) -> None:
    await a1.commands.add(command("c1"))
    before = await a1.commands.get("c1")
    assert not await a1.commands.move("c1", [SENT], COMPLETED, after(1), "1")
    assert not await a1.commands.move("c1", [], COMPLETED, after(1))
    assert not await a1.commands.move("unknown", [PENDING], COMPLETED, after(1))
    assert await a1.commands.get("c1") == before


async def test_commands_are_shown_newest_first_and_page_by_page(a1: Registry) -> None:
    for number in range(4):
        await a1.commands.add(
            command(f"c{number}", "a1" if number % 2 else "a2", created_at=after(number // 2))
        )
    await a1.commands.move("c3", [PENDING], SENT, after(9))
    commands = a1.commands
    everything = await commands.page(agent_id=None, status=None, limit=10, after=None)
    assert [(found.command_id, found.history) for found in everything] == [
        ("c3", ()),
        ("c2", ()),
        ("c1", ()),
        ("c0", ()),
    ]
    rest = await commands.page(agent_id=None, status=None, limit=2, after=(after(1), "c2"))
    assert [found.command_id for found in rest] == ["c1", "c0"]
    of_one = await commands.page(agent_id="a1", status=PENDING, limit=10, after=None)
    assert [found.command_id for found in of_one] == ["c1"]
    sent = await commands.page(agent_id=None, status=SENT, limit=10, after=None)
    assert [found.command_id for found in sent] == ["c3"]


async def test_undelivered_commands_are_those_that_live_and_nobody_acknowledged(a1: Registry) -> None:
    await a1.commands.add(command("later", created_at=after(5)))
    await a1.commands.add(command("sooner", created_at=after(1)))
    await a1.commands.add(command("of-another", "a2", created_at=after(3)))
    await a1.commands.add(command("too-late", lives=10))
    await a1.commands.add(command("taken"))
    await a1.commands.move("sooner", [PENDING], SENT, after(6))
    await a1.commands.move("taken", [PENDING], CommandStatus.ACKNOWLEDGED, after(6))
    now = after(10)
    of_all = await a1.commands.undelivered(None, now)
    assert [found.command_id for found in of_all] == ["sooner", "of-another", "later"]
    of_one = await a1.commands.undelivered("a1", now)
    assert [found.command_id for found in of_one] == ["sooner", "later"]
    assert await a1.commands.overdue(now) == ["too-late"]
    assert await a1.commands.overdue(after(9.999999)) == []


# --- configurations --------------------------------------------------------------------------------


async def test_versions_count_from_one_and_all_are_kept(a1: Registry) -> None:
    first = await a1.configs.add("a1", {"interval": 10}, NOW, None)
    second = await a1.configs.add("a1", {"interval": 20}, after(1), None)
    other = await a1.configs.add("a2", {}, after(2), None)
    assert (first.version, second.version, other.version) == (1, 2, 1)
    assert await a1.configs.get("a1") == second
    assert await a1.configs.get("a1", 1) == first
    assert await a1.configs.get("a1", 3) is None
    assert await a1.configs.history("a1", 10) == [second, first]
    assert await a1.configs.history("a1", 1) == [second]
    assert await a1.configs.newest() == [second, other]


async def test_a_configuration_of_an_unknown_agent_is_not_found(a1: Registry) -> None:
    with pytest.raises(NotFound, match="there is no agent nobody"):
        await a1.configs.add("nobody", {}, NOW, 0)
    assert await a1.configs.get("nobody") is None


@pytest.mark.parametrize(("have", "expected"), [(0, 1), (1, 0), (2, 1), (2, 3)])
async def test_a_version_that_nobody_expected_is_refused(a1: Registry, have: int, expected: int) -> None:
    for number in range(have):
        await a1.configs.add("a1", {"n": number}, NOW, number)
    with pytest.raises(PreconditionFailed, match=f"the newest version is {have}, not {expected}"):
        await a1.configs.add("a1", {"n": "new"}, NOW, expected)
    assert len(await a1.configs.history("a1", 10)) == have


async def test_only_the_newest_report_is_kept_by_the_agents_own_time(a1: Registry) -> None:
    assert await a1.configs.reported("a1") is None
    await a1.configs.report(ConfigReport("a1", after(10), 2, False, "no such service"), after(11))
    await a1.configs.report(ConfigReport("a1", after(5), 1, True), after(12))
    await a1.configs.report(ConfigReport("a1", after(10), 1, True), after(13))
    assert await a1.configs.reported("a1") == ReportedConfig(2, False, "no such service", after(11))
    await a1.configs.report(ConfigReport("a1", after(20), 3, True), after(21))
    assert await a1.configs.reported("a1") == ReportedConfig(3, True, None, after(21))


async def test_a_report_of_an_unknown_agent_changes_nothing(a1: Registry) -> None:
    await a1.configs.report(ConfigReport("nobody", NOW, 1, True), NOW)
    assert await a1.configs.reported("nobody") is None


# --- tokens and settings ---------------------------------------------------------------------------


async def test_tokens_come_back_with_their_hashes(registry: Registry) -> None:
    one, two = token("t1"), token("t2", expires_at=after(60))
    await registry.tokens.add(one, hash_token("one"))
    await registry.tokens.add(two, hash_token("two"))
    assert await registry.tokens.all() == [(one, hash_token("one")), (two, hash_token("two"))]


async def test_the_last_use_of_a_token_is_kept(registry: Registry) -> None:
    await registry.tokens.add(token("t1"), hash_token("one"))
    await registry.tokens.used([("t1", after(7)), ("unknown", after(8))])
    await registry.tokens.used([])
    assert [found.last_used_at for found, _ in await registry.tokens.all()] == [after(7)]


async def test_a_removed_token_is_gone(registry: Registry) -> None:
    await registry.tokens.add(token("t1"), hash_token("one"))
    assert await registry.tokens.remove("t1") is True
    assert await registry.tokens.remove("t1") is False
    assert await registry.tokens.all() == []


@pytest.mark.parametrize(("token_id", "text"), [("t1", "another"), ("another", "one")])
async def test_the_same_token_twice_is_a_conflict(registry: Registry, token_id: str, text: str) -> None:
    await registry.tokens.add(token("t1"), hash_token("one"))
    with pytest.raises(Conflict):
        await registry.tokens.add(token(token_id), hash_token(text))


async def test_a_setting_is_read_as_it_was_last_written(registry: Registry) -> None:
    assert await registry.settings.read("seed") is None
    await registry.settings.write("seed", b"\0\xff first")
    await registry.settings.write("seed", b"\0\xff second")
    assert await registry.settings.read("seed") == b"\0\xff second"


async def test_a_registry_that_works_passes_its_check(registry: Registry) -> None:
    await registry.check()
