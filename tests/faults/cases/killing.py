"""The server and the broker, killed."""

from __future__ import annotations

from random import Random

from tests.faults.case import Case
from tests.faults.machine import Server, strace
from tests.faults.scene import Scene
from tests.faults.stage import Mode, Setting

_BOTH = (Mode.EMBEDDED, Mode.EXTERNAL)


async def kill_server(scene: Scene) -> None:
    """At random moments under load. Who had a journal may have none in the next life."""
    scene.send_all()
    for _ in range(2):
        await scene.a_while()
        since = scene.now()
        await scene.server.kill()
        scene.server.has_journal = scene.setting.journal and scene.chance.random() < 0.7
        await scene.server.start()
        await scene.recovered(since)


async def kill_in_commit(scene: Scene) -> None:
    """At a write to the database, its log or the journal, or when one is synced, or when the journal is
    cleared, after the commit of what was in it; that may be at once, while it recovers."""
    scene.send_all()
    await scene.a_while()
    await scene.server.kill()
    await scene.server.spawn(*_fatal_call(scene.server, scene.chance))
    await scene.server.died()
    since = scene.now()
    await scene.server.start()
    await scene.recovered(since)


def _fatal_call(server: Server, chance: Random) -> list[str]:
    """The beginning of a command that kills the server at one of its system calls."""
    duckdb, journal = [server.duckdb, server.duckdb_log], [server.journal]
    if server.has_journal and chance.random() < 0.3:
        # DuckDB cuts its own log too seldom.
        return strace("ftruncate", f"signal=KILL:when={chance.randrange(1, 10)}", *journal)
    files = chance.choice((duckdb, journal, duckdb + journal)) if server.has_journal else duckdb
    calls = chance.choice(("fdatasync,fsync", "pwrite64,write"))
    return strace(calls, f"signal=KILL:when={chance.randrange(1, 40)}", *files)


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
    Case("server kill -9, journal", kill_server, 20, Setting(journal=True), modes=_BOTH),
    Case("server kill -9 in a commit, journal", kill_in_commit, 40, Setting(journal=True), modes=_BOTH),
    Case("broker kill -9", kill_broker, 20, Setting(broker_forgets=True), modes=(Mode.EXTERNAL,)),
)
