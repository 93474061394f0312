"""What a copy of `pingup.db` gives away: nothing that lets anybody in."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pingup.errors import Unavailable, Unusable
from pingup.model import AgentKey, Algorithm
from pingup.signing import Vault, hash_token, token_of
from pingup.storage.sqlite import SQLiteRegistry, migrations
from pingup.storage.sqlite.migrations import Migration
from tests.contract.registry_examples import agent, key, secret_of, token

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pingup.db"


async def _fill(path: Path) -> None:
    async with SQLiteRegistry.open(path, Vault(KEY)) as registry:
        for name in ("a1", "a2"):
            await registry.agents.add(agent(name, name="a visible name"), key(name))
        await registry.settings.write("one", b"the first seed")
        await registry.settings.write("two", b"the other seed")


def _execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


def _bytes_on_disk(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob("pingup.db*")))


async def test_no_secret_stands_in_the_files_in_plain_text(path: Path) -> None:
    await _fill(path)
    closed = _bytes_on_disk(path)
    async with SQLiteRegistry.open(path, Vault(KEY)) as registry:
        await registry.agents.add(agent("a3", name="a visible name"), key("a3"))
        await registry.tokens.add(token("t1"), hash_token("pgp_a-token-of-somebody"))
        await registry.settings.write("three", b"the third seed")
        opened = _bytes_on_disk(path)
    assert (path.parent / "pingup.db-wal").exists() is False
    for content in (closed, opened, _bytes_on_disk(path)):
        assert b"a visible name" in content
        for name in ("a1", "a2", "a3"):
            assert secret_of(name).encode() not in content
            assert token_of(secret_of(name)).encode() not in content
        assert b"a-token-of-somebody" not in content
        assert b"seed" not in content
        assert KEY not in content


async def test_the_same_secret_never_looks_the_same(path: Path) -> None:
    async with SQLiteRegistry.open(path, Vault(KEY)) as registry:
        await registry.settings.write("one", b"same")
        first = _sealed(path)
        await registry.settings.write("one", b"same")
        assert _sealed(path) != first


def _sealed(path: Path) -> object:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT sealed FROM settings WHERE name = 'one'").fetchone()[0]


async def test_another_master_key_is_refused_in_one_line(path: Path) -> None:
    await _fill(path)
    with pytest.raises(Unusable, match=r"the master key does not open .*pingup\.db") as refusal:
        async with SQLiteRegistry.open(path, Vault(bytes(32))):
            pass
    assert "\n" not in str(refusal.value)
    async with SQLiteRegistry.open(path, Vault(KEY)) as registry:
        assert await registry.agents.keys() == [key("a1"), key("a2")]


async def test_another_master_key_is_refused_before_anything_was_stored(path: Path) -> None:
    async with SQLiteRegistry.open(path, Vault(KEY)):
        pass
    with pytest.raises(Unusable, match="the master key does not open"):
        async with SQLiteRegistry.open(path, Vault(bytes(32))):
            pass


async def test_one_agents_secret_put_under_another_agents_id_is_refused(path: Path) -> None:
    await _fill(path)
    _execute(path, "UPDATE agents SET sealed_secret = (SELECT min(sealed_secret) FROM agents)")
    async with SQLiteRegistry.open(path, Vault(KEY)) as registry:
        with pytest.raises(Unusable, match=r"what stands under agent/a[12] is another's"):
            await registry.agents.keys()


async def test_a_setting_put_under_another_name_is_refused(path: Path) -> None:
    await _fill(path)
    _execute(
        path,
        "UPDATE settings SET sealed = (SELECT sealed FROM settings WHERE name = 'one') WHERE name = 'two'",
    )
    async with SQLiteRegistry.open(path, Vault(KEY)) as registry:
        assert await registry.settings.read("one") == b"the first seed"
        with pytest.raises(Unusable, match="what stands under setting/two is another's"):
            await registry.settings.read("two")


async def test_a_setting_that_is_sealed_for_an_agent_is_refused(path: Path) -> None:
    await _fill(path)
    _execute(
        path,
        "UPDATE settings SET sealed = (SELECT sealed_secret FROM agents WHERE id = 'a1') WHERE name = 'one'",
    )
    async with SQLiteRegistry.open(path, Vault(KEY)) as registry:
        with pytest.raises(Unusable, match="another's"):
            await registry.settings.read("one")


async def test_a_secret_that_was_changed_is_refused(path: Path) -> None:
    await _fill(path)
    _execute(path, "UPDATE agents SET sealed_secret = zeroblob(length(sealed_secret)) WHERE id = 'a1'")
    async with SQLiteRegistry.open(path, Vault(KEY)) as registry:
        with pytest.raises(Unusable, match=r"the master key does not open .*agent/a1"):
            await registry.agents.keys()


async def test_a_token_is_sealed_for_its_agent_alone(path: Path) -> None:
    async with SQLiteRegistry.open(path, Vault(KEY)) as registry:
        for name in ("a1", "a2"):
            sealed = AgentKey(
                name, Algorithm.ED25519, None, name.encode() * 16, hash_token(name), f"of {name}"
            )
            await registry.agents.add(agent(name), sealed)
        assert b"of a1" not in _bytes_on_disk(path)
    _execute(path, "UPDATE agents SET sealed_token = (SELECT min(sealed_token) FROM agents)")
    async with SQLiteRegistry.open(path, Vault(KEY)) as registry:
        with pytest.raises(Unusable, match=r"what stands under token/a[12] is another's"):
            await registry.agents.keys()


async def test_beside_a_server_the_secrets_can_be_read_and_nothing_written(path: Path) -> None:
    async with SQLiteRegistry.open(path, Vault(KEY)) as server:
        await server.agents.add(agent("a1"), key("a1"))
        async with SQLiteRegistry.open_read_only(path, Vault(KEY)) as beside:
            assert await beside.agents.keys() == [key("a1")]
            with pytest.raises(Unavailable, match="reading only"):
                await beside.agents.add(agent("a2"), key("a2"))
        await server.agents.add(agent("a3"), key("a3"))
        async with SQLiteRegistry.open_read_only(path, Vault(KEY)) as beside:
            assert await beside.agents.keys() == [key("a1"), key("a3")]


async def test_after_a_server_the_secrets_can_be_read(path: Path) -> None:
    await _fill(path)
    async with SQLiteRegistry.open_read_only(path, Vault(KEY)) as beside:
        assert await beside.agents.keys() == [key("a1"), key("a2")]


async def test_reading_only_refuses_another_master_key(path: Path) -> None:
    await _fill(path)
    with pytest.raises(Unusable, match="the master key does not open"):
        async with SQLiteRegistry.open_read_only(path, Vault(bytes(32))):
            pass


async def test_reading_only_makes_and_migrates_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unusable, match="unable to open"):
        async with SQLiteRegistry.open_read_only(path, Vault(KEY)):
            pass
    assert _bytes_on_disk(path) == b""
    await _fill(path)
    before = _bytes_on_disk(path)
    newer = (*migrations.MIGRATIONS, Migration("colour", ("ALTER TABLE agents ADD COLUMN colour TEXT",)))
    monkeypatch.setattr(migrations, "MIGRATIONS", newer)
    with pytest.raises(Unusable, match="`pingup migrate` brings it up to date"):
        async with SQLiteRegistry.open_read_only(path, Vault(KEY)):
            pass
    assert _bytes_on_disk(path) == before
