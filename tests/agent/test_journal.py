"""The journal of commands, in a real file."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pingup.agent.journal import INTERRUPTED, Entry, Journal, JournalFull
from pingup.errors import Unusable
from pingup.model import CommandStatus
from tests.agent.rig import LIMIT

NOW = datetime(2026, 2, 25, 10, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


async def test_a_command_is_new_once(tmp_path: Path) -> None:
    async with Journal.open(tmp_path / "journal.db") as journal:
        assert await journal.begin("a", LATER, NOW) is None
        assert await journal.begin("a", LATER, NOW) == Entry("a", CommandStatus.ACKNOWLEDGED, None)
    async with Journal.open(tmp_path / "journal.db") as journal:
        assert await journal.begin("a", LATER, NOW) == Entry("a", CommandStatus.ACKNOWLEDGED, None)


async def test_what_had_begun_is_interrupted_and_told_until_the_server_knows(tmp_path: Path) -> None:
    async with Journal.open(tmp_path / "journal.db") as journal:
        await journal.begin("begun", LATER, NOW)
        await journal.begin("ended", LATER, NOW)
        await journal.end("ended", CommandStatus.COMPLETED, b'{"x":1}')
    async with Journal.open(tmp_path / "journal.db") as journal:
        await journal.interrupt()
        assert await journal.unreported() == [
            Entry("begun", CommandStatus.FAILED, INTERRUPTED),
            Entry("ended", CommandStatus.COMPLETED, b'{"x":1}'),
        ]
        await journal.reported("begun")
        assert [entry.command_id for entry in await journal.unreported()] == ["ended"]


async def test_a_full_journal_forgets_what_has_expired_and_ended_and_nothing_else(tmp_path: Path) -> None:
    async with Journal.open(tmp_path / "journal.db", capacity=3) as journal:
        for name, expires_at in (("living", LATER), ("expired", NOW), ("running", NOW)):
            await journal.begin(name, expires_at, NOW)
        await journal.end("living", CommandStatus.COMPLETED, b"1")
        await journal.end("expired", CommandStatus.COMPLETED, b"2")
        after = NOW + timedelta(seconds=1)
        assert await journal.begin("new", LATER, after) is None
        assert await journal.begin("living", LATER, after) is not None
        assert await journal.begin("running", NOW, after) is not None
        with pytest.raises(JournalFull):
            await journal.begin("one too many", LATER, after)


_KILLED_AFTER_THE_WRITE = """
import asyncio, os, signal, sys
from datetime import datetime, timedelta, UTC
from pathlib import Path
from pingup.agent.journal import Journal

async def main():
    async with Journal.open(Path(sys.argv[1])) as journal:
        now = datetime.now(UTC)
        await journal.begin("a", now + timedelta(hours=1), now)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_what_was_written_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", _KILLED_AFTER_THE_WRITE, path)
    async with asyncio.timeout(LIMIT):
        assert await killed.wait() == -9
    async with Journal.open(path) as journal:
        assert await journal.begin("a", LATER, NOW) is not None


async def test_two_agents_never_share_a_journal(tmp_path: Path) -> None:
    async with Journal.open(tmp_path / "journal.db"):
        with pytest.raises(Unusable, match="cannot use the journal"):
            async with Journal.open(tmp_path / "journal.db"):
                pass


async def test_a_file_that_is_no_journal_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_text("this is no database, but long enough to be taken for one" * 20)
    with pytest.raises(Unusable, match=r"cannot use the journal .*journal\.db: file is not a database"):
        async with Journal.open(tmp_path / "journal.db"):
            pass
