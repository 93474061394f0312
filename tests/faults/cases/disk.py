"""A disk that is full, fails, or is slow."""

from __future__ import annotations

from tests.faults.case import Case
from tests.faults.machine import strace
from tests.faults.scene import Scene

_SYNCS = "fdatasync,fsync"


async def fill_disk(scene: Scene) -> None:
    """No file can grow beyond a size that is reached under load; later it can, sometimes after a kill -9."""
    scene.send_all()
    await scene.a_while()
    log = scene.server.data / "analytics.duckdb.wal"
    size = log.stat().st_size if log.exists() else 0
    scene.server.limit_files(size + scene.chance.randrange(1, 200_000))
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
    """From some moment on every sync fails with EIO, on both databases; later they work."""
    scene.send_all()
    await scene.a_while()
    await scene.server.kill()
    first = scene.chance.randrange(40, 120)
    await scene.server.start(*strace(_SYNCS, f"error=EIO:when={first}+"))
    await scene.health("unhealthy")
    await scene.server.untrace()
    await scene.recovered(scene.now())
    await scene.a_while()


async def fail_some_syncs(scene: Scene) -> None:
    """Every so many syncs of the telemetry's log one fails, for as long as the case lasts."""
    scene.send_all()
    await scene.a_while()
    await scene.server.kill()
    since = scene.now()
    log = scene.server.data / "analytics.duckdb.wal"
    first, every = scene.chance.randrange(5, 20), scene.chance.randrange(3, 9)
    await scene.server.start(*strace(_SYNCS, f"error=EIO:when={first}+{every}", log))
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
)
