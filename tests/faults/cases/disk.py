"""A disk that is full, fails, or is slow."""

from __future__ import annotations

from tests.faults.case import Case
from tests.faults.machine import LIMIT, size_of, strace, within
from tests.faults.scene import Scene
from tests.faults.stage import Setting

_SYNCS = "fdatasync,fsync"


async def fill_disk(scene: Scene) -> None:
    """No file can grow beyond a size that is reached under load; later it can, sometimes after a kill -9.

    A size that the journal reaches is often one that DuckDB's log has exceeded already: then both fail.
    """
    scene.send_all()
    await scene.a_while()
    log = scene.chance.choice(scene.server.logs)
    room = 200_000 if log == scene.server.duckdb_log else 5_000
    scene.server.limit_files(size_of(log) + scene.chance.randrange(1, room))
    await scene.health("unhealthy")
    since = scene.now()
    if scene.chance.random() < 0.5:
        await scene.server.kill()
        await scene.server.start()
    else:
        scene.server.limit_files()
    await scene.recovered(since)
    await scene.a_while()


async def fail_syncs(scene: Scene) -> None:
    """From some moment on every sync of all files fails with EIO; later they work."""
    scene.send_all()
    await scene.a_while()
    await scene.server.kill()
    first = scene.chance.randrange(40, 120)
    await scene.server.start(*strace(_SYNCS, f"error=EIO:when={first}+"))
    await scene.health("unhealthy")
    await scene.server.untrace()
    failed = size_of(scene.server.journal)
    await scene.recovered(scene.now())
    if scene.server.has_journal:
        async with within(LIMIT, "the journal was not used any more"):
            while size_of(scene.server.journal) in (0, failed):
                await scene.record.grow()
    await scene.a_while()


async def fail_some_syncs(scene: Scene) -> None:
    """Every so many syncs of DuckDB's log, of the journal or of both one fails, while the case lasts."""
    scene.send_all()
    await scene.a_while()
    await scene.server.kill()
    since = scene.now()
    logs = scene.server.logs
    files = scene.chance.choice([logs, *([log] for log in logs)])
    first, every = scene.chance.randrange(5, 20), scene.chance.randrange(3, 9)
    await scene.server.start(*strace(_SYNCS, f"error=EIO:when={first}+{every}", *files))
    await scene.recovered(since)
    for _ in range(3):
        await scene.a_while()


async def slow_syncs(scene: Scene) -> None:
    """Every sync takes 200 ms longer."""
    await scene.server.kill()
    since = scene.now()
    await scene.server.start(*strace(_SYNCS, "delay_enter=200000"))
    scene.send_all()
    await scene.recovered(since)
    await scene.bystander.grow(5)
    await scene.a_while(200)


CASES = (
    Case("disk full", fill_disk, 20),
    Case("fsync EIO, until repaired", fail_syncs, 10),
    Case("fsync EIO, now and then", fail_some_syncs, 10),
    Case("fsync 200 ms", slow_syncs, 5),
    Case("disk full, journal", fill_disk, 20, Setting(journal=True)),
    Case("fsync EIO, until repaired, journal", fail_syncs, 10, Setting(journal=True), brief=False),
    Case("fsync EIO, now and then, journal", fail_some_syncs, 20, Setting(journal=True)),
)
