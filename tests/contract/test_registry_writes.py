"""Transactions of the registry: together, whole, and safe once they are reported."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest
from aiosqlite import Connection

import pingup
from pingup.errors import Conflict, Unavailable
from pingup.signing import Vault
from pingup.storage.sqlite import SQLiteRegistry
from pingup.storage.sqlite.database import Database, open_database
from pingup.storage.sqlite.group_commit import MAX_BATCH, MAX_WAITING, GroupCommit, Work
from tests.contract.registry_examples import NOW, agent, command, key, token

LIMIT = 20.0
"""Seconds after which a test gives up waiting."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pingup.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    async with open_database(path) as opened:
        yield opened


def _insert(name: str) -> Work[str]:
    async def work(connection: Connection) -> str:
        await connection.execute("INSERT INTO settings (name, sealed) VALUES (?, x'00')", (name,))
        return name

    return work


async def _names(database: Database) -> set[str]:
    return {row["name"] for row in await database.read("SELECT name FROM settings")}


class _Gate:
    """A write that stops in its middle until it is let go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, connection: Connection) -> None:
        await _insert("before the gate")(connection)
        self.reached.set()
        await self.opened.wait()
        await _insert("after the gate")(connection)


# --- together and alone ----------------------------------------------------------------------------


async def test_one_write_that_fails_takes_none_of_the_others_along(database: Database) -> None:
    async def fail(connection: Connection) -> str:
        await _insert("half")(connection)
        raise LookupError("my own mistake")

    works = [_insert(f"n{number}") for number in range(20)]
    works[7:7] = [fail, _insert("n3")]
    answers = await asyncio.gather(*(database.write(work) for work in works), return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    assert [type(failure) for failure in failures] == [LookupError, sqlite3.IntegrityError]
    assert await _names(database) == {f"n{number}" for number in range(20)}


async def test_writes_that_wait_together_share_a_commit(database: Database) -> None:
    statements: list[str] = []

    async def listen(connection: Connection) -> None:
        await connection.set_trace_callback(statements.append)

    await database.write(listen)
    statements.clear()
    await asyncio.gather(*(database.write(_insert(f"n{number}")) for number in range(MAX_BATCH + 1)))
    assert statements.count("COMMIT") == 2
    assert len(await _names(database)) == MAX_BATCH + 1


async def test_more_writes_than_may_wait_all_land(database: Database) -> None:
    names = {f"n{number}" for number in range(MAX_WAITING + 200)}
    async with asyncio.timeout(LIMIT):
        answers = await asyncio.gather(*(database.write(_insert(name)) for name in names))
    assert set(answers) == names
    assert await _names(database) == names


async def test_five_hundred_calls_at_once_all_land(path: Path) -> None:
    async with SQLiteRegistry.open(path, Vault(Vault.new_key())) as registry:
        await registry.agents.add(agent("a1"), key("a1"))
        calls = [registry.commands.add(command(f"c{number % 499}")) for number in range(500)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers if answer is not None] == [Conflict]
        assert len(await registry.commands.undelivered("a1", NOW)) == 499


async def test_two_callers_that_expect_the_same_version_never_both_win(path: Path) -> None:
    async with SQLiteRegistry.open(path, Vault(Vault.new_key())) as registry:
        await registry.agents.add(agent("a1"), key("a1"))
        calls = [registry.configs.add("a1", {"by": number}, NOW, 0) for number in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
        assert len(await registry.configs.history("a1", 100)) == 1


# --- whole or not at all ---------------------------------------------------------------------------


async def test_a_reader_never_sees_half_of_a_transaction(database: Database) -> None:
    gate = _Gate()
    writing = asyncio.create_task(database.write(gate))
    async with asyncio.timeout(LIMIT):
        await gate.reached.wait()
        assert await _names(database) == set()
        gate.opened.set()
        await writing
    assert await _names(database) == {"before the gate", "after the gate"}


async def test_nobody_hears_of_success_before_the_commit(database: Database) -> None:
    gate = _Gate()
    first = asyncio.create_task(database.write(_insert("first")))
    second = asyncio.create_task(database.write(gate))
    async with asyncio.timeout(LIMIT):
        await gate.reached.wait()
        assert not first.done()
        assert await _names(database) == set()
        gate.opened.set()
        await asyncio.gather(first, second)
    assert "first" in await _names(database)


async def test_a_caller_that_gives_up_while_it_waits_leaves_nothing(database: Database) -> None:
    gate = _Gate()
    running = asyncio.create_task(database.write(gate))
    async with asyncio.timeout(LIMIT):
        await gate.reached.wait()
        waiting = [asyncio.create_task(database.write(_insert(f"n{number}"))) for number in range(5)]
        await database.read("SELECT 1")
        waiting[2].cancel()
        gate.opened.set()
        answers = await asyncio.gather(running, *waiting, return_exceptions=True)
    assert isinstance(answers[3], asyncio.CancelledError)
    assert await _names(database) == {"before the gate", "after the gate", "n0", "n1", "n3", "n4"}


async def test_a_caller_that_gives_up_in_the_middle_breaks_nobody(database: Database) -> None:
    gate = _Gate()
    running = asyncio.create_task(database.write(gate))
    beside = asyncio.create_task(database.write(_insert("beside")))
    async with asyncio.timeout(LIMIT):
        await gate.reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        gate.opened.set()
        assert await beside == "beside"
    assert await _names(database) == {"before the gate", "after the gate", "beside"}


async def test_what_waits_when_the_registry_closes_is_still_written(path: Path) -> None:
    gate = _Gate()
    async with open_database(path) as database:
        writing = asyncio.create_task(database.write(gate))
        await gate.reached.wait()
        waiting = asyncio.create_task(database.write(_insert("last")))
        await database.read("SELECT 1")
        gate.opened.set()
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(writing, waiting)
    with pytest.raises(Unavailable, match="the registry is closed"):
        await database.write(_insert("too late"))
    async with open_database(path) as database:
        assert await _names(database) == {"before the gate", "after the gate", "last"}


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(Unavailable, match="readonly"):
        await database.read("INSERT INTO settings VALUES ('a', x'00')")


async def test_a_mistake_in_a_statement_is_not_taken_for_a_failing_disk(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await database.read("SELECT * FROM missing")


# --- trouble ---------------------------------------------------------------------------------------


async def test_a_full_database_refuses_and_works_again_when_there_is_room(database: Database) -> None:
    async def limit(connection: Connection, pages: int) -> None:
        await connection.execute_fetchall(f"PRAGMA max_page_count = {pages}")

    async def large(connection: Connection) -> None:
        await connection.execute("INSERT INTO settings VALUES ('large', zeroblob(1000000))")

    await database.write(lambda connection: limit(connection, 1))
    small = [database.write(_insert(f"n{number}")) for number in range(3)]
    answers = await asyncio.gather(*small, database.write(large), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 4
    assert "full" in str(answers[0])
    assert await _names(database) == set()
    await database.write(lambda connection: limit(connection, 1_000_000))
    await asyncio.gather(database.write(_insert("n1")), database.write(large))
    assert await _names(database) == {"n1", "large"}


async def test_a_failure_in_the_middle_undoes_everything_and_the_next_write_works(database: Database) -> None:
    async def fail(connection: Connection) -> None:
        await _insert("half")(connection)
        await connection.execute("PRAGMA query_only = ON")
        try:
            await _insert("the other half")(connection)
        finally:
            await connection.execute("PRAGMA query_only = OFF")

    works = (database.write(_insert("beside")), database.write(fail))
    answers = await asyncio.gather(*works, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
    await database.write(_insert("next"))
    assert await _names(database) == {"next"}


async def _lose_the_connection(connection: Connection, answers: list[object]) -> None:
    async with asyncio.timeout(LIMIT), GroupCommit(connection) as writer:
        await connection.close()
        calls = (writer.write(_insert(f"n{number}")) for number in range(MAX_WAITING + 50))
        answers += await asyncio.gather(*calls, return_exceptions=True)


async def test_nobody_waits_for_a_writer_that_is_gone(path: Path) -> None:
    answers: list[object] = []
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        with pytest.raises(ValueError, match="no active connection"):
            await _lose_the_connection(connection, answers)
    assert len(answers) == MAX_WAITING + 50
    assert {type(answer) for answer in answers} == {Unavailable}


async def test_callers_that_gave_up_make_no_room_before_the_writer_is_done(database: Database) -> None:
    gate = _Gate()
    running = asyncio.create_task(database.write(gate))
    async with asyncio.timeout(LIMIT):
        await gate.reached.wait()
        hasty = [asyncio.create_task(database.write(_insert(f"h{n}"))) for n in range(MAX_WAITING - 1)]
        await database.read("SELECT 1")
        for caller in hasty:
            caller.cancel()
        patient = [asyncio.create_task(database.write(_insert(f"p{n}"))) for n in range(100)]
        await database.read("SELECT 1")
        assert database._writer is not None
        assert len(database._writer._waiting) == MAX_WAITING
        gate.opened.set()
        await asyncio.gather(running, *patient)
    assert await _names(database) == {"before the gate", "after the gate", *(f"p{n}" for n in range(100))}


async def test_a_file_that_another_process_holds_is_unavailable_for_that_long(
    path: Path, database: Database
) -> None:
    async def hurry(connection: Connection) -> None:
        await connection.execute_fetchall("PRAGMA busy_timeout = 1")

    await database.write(hurry)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            await database.write(_insert("n1"))
        assert await _names(database) == set()
        other.execute("ROLLBACK")
    assert await database.write(_insert("n2")) == "n2"
    assert await _names(database) == {"n2"}


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from pingup.errors import Unavailable
from pingup.signing import Vault
from pingup.storage.sqlite import SQLiteRegistry

async def main():
    async with SQLiteRegistry.open(Path(sys.argv[1]), Vault(bytes(32))) as registry:
        await registry.settings.write("before", b"1")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            await registry.settings.write("during", bytes(200_000))
        except Unavailable as problem:
            print("refused:", problem)
        assert await registry.settings.read("before") == b"1"
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await registry.check()
        await registry.settings.write("after", b"3")

asyncio.run(main())
"""

REPORT_EACH_WRITE = """
import asyncio, itertools, sys
from pathlib import Path
from pingup.signing import Vault
from pingup.storage.sqlite import SQLiteRegistry

async def main():
    async with SQLiteRegistry.open(Path(sys.argv[1]), Vault(bytes(32))) as registry:
        async def keep_writing(writer):
            for number in itertools.count():
                name = f"{writer}-{number}"
                await registry.settings.write(name, name.encode())
                print(name, flush=True)
        await asyncio.gather(*(keep_writing(writer) for writer in range(5)))

asyncio.run(main())
"""


async def _start(script: str, path: Path) -> asyncio.subprocess.Process:
    root = Path(pingup.__file__).parents[1]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path), stdout=PIPE, env={"PYTHONPATH": str(root)}
    )


async def test_a_full_disk_refuses_and_works_again_when_there_is_room(path: Path) -> None:
    process = await _start(FULL_DISK, path)
    async with asyncio.timeout(LIMIT):
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert b"refused: the registry cannot work now" in output
    async with SQLiteRegistry.open(path, Vault(bytes(32))) as registry:
        found = [await registry.settings.read(name) for name in ("before", "during", "after")]
        assert found == [b"1", None, b"3"]


async def test_a_write_that_was_reported_survives_kill_9(path: Path) -> None:
    process = await _start(REPORT_EACH_WRITE, path)
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT):
        lines = [await process.stdout.readline() for _ in range(100)]
        process.kill()
        lines += (await process.stdout.read()).splitlines()
        await process.wait()
    reported = [line.decode().strip() for line in lines]
    async with SQLiteRegistry.open(path, Vault(bytes(32))) as registry:
        for name in reported:
            assert await registry.settings.read(name) == name.encode()


async def test_everything_is_there_again_after_a_restart(path: Path) -> None:
    vault = Vault(Vault.new_key())
    async with SQLiteRegistry.open(path, vault) as registry:
        await registry.agents.add(agent("a1", name="Kitchen", tags=("t",)), key("a1"))
        await registry.commands.add(command("c1"))
        config = await registry.configs.add("a1", {"interval": 5}, NOW, None)
        await registry.tokens.add(token("t1"), b"h" * 32)
        await registry.settings.write("seed", b"s")
        stored = await registry.commands.get("c1")
    async with SQLiteRegistry.open(path, vault) as registry:
        assert await registry.agents.get("a1") == agent("a1", name="Kitchen", tags=("t",))
        assert await registry.agents.keys() == [key("a1")]
        assert stored is not None
        assert await registry.commands.get("c1") == stored
        assert await registry.configs.get("a1") == config
        assert await registry.tokens.all() == [(token("t1"), b"h" * 32)]
        assert await registry.settings.read("seed") == b"s"
