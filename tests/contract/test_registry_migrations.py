"""The file `pingup.db`: its tables, its versions, and what is refused."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from pingup.errors import Unusable
from pingup.signing import Vault
from pingup.storage.sqlite import SQLiteRegistry, migrate, migrations
from pingup.storage.sqlite.migrations import Migration
from tests.contract.registry_examples import agent, key

ALL = ["0001_registry", "0002_sealed_tokens", "0003_security"]

# The specification, section 5.1: name, type, default.
NOW = "CURRENT_TIMESTAMP"
SPECIFIED = {
    "agents": [
        ("id", "TEXT", None),
        ("name", "TEXT", None),
        ("status", "TEXT", "'offline'"),
        ("last_seen", "TEXT", None),
        ("metadata", "TEXT", None),
        ("created_at", "TEXT", NOW),
    ],
    "commands": [
        ("id", "TEXT", None),
        ("agent_id", "TEXT", None),
        ("action", "TEXT", None),
        ("params", "TEXT", None),
        ("signature", "TEXT", None),
        ("status", "TEXT", "'pending'"),
        ("result", "TEXT", None),
        ("created_at", "TEXT", NOW),
    ],
    "configs": [
        ("agent_id", "TEXT", None),
        ("config", "TEXT", None),
        ("version", "INTEGER", "1"),
        ("updated_at", "TEXT", NOW),
    ],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pingup.db"


def _query(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def _execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize("table", SPECIFIED)
def test_the_specified_columns_come_first_and_in_order(path: Path, table: str) -> None:
    migrate(path)
    columns = _query(path, f"SELECT name, type, dflt_value FROM pragma_table_info('{table}') ORDER BY cid")
    assert columns[: len(SPECIFIED[table])] == SPECIFIED[table]


def test_the_specified_indexes_and_foreign_keys_are_there(path: Path) -> None:
    migrate(path)
    assert _query(path, "SELECT name FROM pragma_index_info('idx_commands_agent')") == [("agent_id",)]
    assert _query(path, "SELECT name FROM pragma_index_info('idx_commands_status')") == [("status",)]
    for table in ("commands", "configs"):
        keys = _query(path, f'SELECT "table", "from", "to" FROM pragma_foreign_key_list(\'{table}\')')
        assert keys == [("agents", "agent_id", "id")]


def test_migrating_twice_changes_nothing_the_second_time(path: Path) -> None:
    assert migrate(path) == ALL
    schema = _query(path, "SELECT * FROM sqlite_master")
    assert migrate(path) == []
    assert _query(path, "SELECT * FROM sqlite_master") == schema


def test_several_processes_may_migrate_at_once(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        applied = list(pool.map(lambda _: migrate(path), range(8)))
    assert sorted(applied) == [[]] * 7 + [ALL]


async def test_a_later_migration_keeps_what_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault(Vault.new_key())
    async with SQLiteRegistry.open(path, vault) as registry:
        await registry.agents.add(agent("a1"), key("a1"))
    later = Migration("colour", ("ALTER TABLE agents ADD COLUMN colour TEXT",))
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, later))
    assert migrate(path) == ["0004_colour"]
    async with SQLiteRegistry.open(path, vault) as registry:
        assert await registry.agents.get("a1") == agent("a1")


def test_a_migration_that_fails_leaves_nothing_of_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = migrations.MIGRATIONS
    broken = Migration("broken", ("CREATE TABLE half (id TEXT)", "CREATE TABLE agents (id TEXT)"))
    monkeypatch.setattr(migrations, "MIGRATIONS", (*good, broken))
    with pytest.raises(Unusable, match="table agents already exists"):
        migrate(path)
    assert _query(path, "PRAGMA user_version") == [(len(ALL),)]
    assert _query(path, "SELECT name FROM sqlite_master WHERE name = 'half'") == []
    monkeypatch.setattr(migrations, "MIGRATIONS", good)
    assert migrate(path) == []


def test_a_database_from_the_future_is_refused_and_left_alone(path: Path) -> None:
    migrate(path)
    _execute(path, f"PRAGMA user_version = {len(ALL) + 1}")
    before = path.read_bytes()
    with pytest.raises(Unusable, match=r"pingup\.db was made by a newer version of Pingup"):
        migrate(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("this is a letter, not a database\n" * 100)
    before = path.read_bytes()
    with pytest.raises(Unusable, match=r"pingup\.db is not a SQLite database"):
        migrate(path)
    assert path.read_bytes() == before


def test_somebody_elses_database_is_refused_and_left_alone(path: Path) -> None:
    _execute(path, "CREATE TABLE agents (id TEXT PRIMARY KEY)")
    before = path.read_bytes()
    with pytest.raises(Unusable, match=r"pingup\.db holds tables that are not Pingup's"):
        migrate(path)
    assert path.read_bytes() == before


@pytest.fixture
def damaged(path: Path) -> Path:
    """A database whose first page, with the schema's beginning, is whole, and none of the tables."""
    migrate(path)
    content = path.read_bytes()
    path.write_bytes(content[:4096].ljust(len(content), b"\xa5"))
    return path


async def test_a_damaged_database_is_refused(damaged: Path) -> None:
    with pytest.raises(Unusable, match="malformed"):
        async with SQLiteRegistry.open(damaged, Vault(Vault.new_key())):
            pass


def test_a_missing_directory_is_refused(path: Path) -> None:
    missing = path.parent / "nowhere" / "pingup.db"
    with pytest.raises(Unusable, match=r"cannot open .*nowhere/pingup\.db: No such file or directory"):
        migrate(missing)


def test_a_directory_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(Unusable, match=r"cannot open .*pingup\.db: Is a directory"):
        migrate(path)


@pytest.fixture
def forbidden(tmp_path: Path) -> Iterator[Path]:
    """A directory that may not be written; root may write everywhere, so it becomes nobody for a while."""
    directory = tmp_path / "forbidden"
    directory.mkdir(mode=0o500)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    yield directory
    os.seteuid(user)


def test_a_directory_without_permission_is_refused(forbidden: Path) -> None:
    with pytest.raises(Unusable, match=r"cannot open .*pingup\.db: Permission denied"):
        migrate(forbidden / "pingup.db")


def test_nobody_else_on_the_machine_may_read_the_file(path: Path) -> None:
    migrate(path)
    assert path.stat().st_mode & 0o777 == 0o600
