"""The server and the broker, killed."""

from __future__ import annotations

from tests.faults.case import Case
from tests.faults.machine import strace
from tests.faults.scene import Scene
from tests.faults.stage import Mode, Setting

_BOTH = (Mode.EMBEDDED, Mode.EXTERNAL)


async def kill_server(scene: Scene) -> None:
    """At random moments under load."""
    scene.send_all()
    for _ in range(2):
        await scene.a_while()
        since = scene.now()
        await scene.server.kill()
        await scene.server.start()
        await scene.recovered(since)


async def kill_in_commit(scene: Scene) -> None:
    """At a write to the database or its log, or when it is synced; that may be at once, while it recovers."""
    scene.send_all()
    await scene.a_while()
    await scene.server.kill()
    file = scene.server.data / "analytics.duckdb"
    calls = scene.chance.choice(("fdatasync,fsync", "pwrite64,write"))
    await scene.server.spawn(
        *strace(
            calls, f"signal=KILL:when={scene.chance.randrange(1, 40)}", file, file.with_suffix(".duckdb.wal")
        )
    )
    await scene.server.died()
    since = scene.now()
    await scene.server.start()
    await scene.recovered(since)


async def kill_broker(scene: Scene) -> None:
    """Between two saves of its file, sometimes with much in it that the server has not had yet."""
    scene.send_all()
    await scene.a_while()
    is_behind = scene.chance.random() < 0.5
    if is_behind:
        scene.server.freeze()
        await scene.bystander.accept(by=scene.chance.randrange(5, 50))
    await scene.broker.kill()
    if is_behind:
        scene.server.thaw()
    since = scene.now()
    await scene.broker.start()
    await scene.recovered(since)


CASES = (
    Case("server kill -9", kill_server, 40, modes=_BOTH),
    Case("server kill -9 in a commit", kill_in_commit, 40, modes=_BOTH),
    Case("broker kill -9", kill_broker, 20, Setting(broker_forgets=True), modes=(Mode.EXTERNAL,)),
)
