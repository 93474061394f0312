"""A server whose clock is wrong when it starts, as that of a board without a battery."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.case import Case
from tests.faults.machine import Broken
from tests.faults.scene import Scene
from tests.mosquitto import find_program

_DAY = 86_400
_LIBRARY = "**/faketime/libfaketimeMT.so.1"
_LOOKS = 20


class Clock:
    """What the server takes for the time: ours, so many seconds off, which can be changed while it runs."""

    def __init__(self, scene: Scene) -> None:
        self._file = scene.directory / "clock"

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a server that goes by it."""
        return {
            "LD_PRELOAD": _find_library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
            "NO_FAKE_STAT": "1",
        }

    def put(self, seconds: int) -> None:
        """Put it so far ahead; below 0, behind."""
        self._file.write_text(f"{seconds:+d}\n")


def _find_library() -> str:
    find_program("faketime")
    return str(next(Path("/usr/lib").glob(_LIBRARY)))


async def start_behind(scene: Scene) -> None:
    """A day behind what is stored: nothing is taken and nothing refused until the clock is right."""
    clock = Clock(scene)
    now = datetime.now(UTC)
    for device in scene.devices:
        scene.send(device, scene.supply(device, since=now))
    await scene.a_while()
    await scene.server.kill()
    clock.put(-_DAY - scene.chance.randrange(3600))
    await scene.server.start(environ=clock.environ)
    acknowledged = scene.record.messages + scene.record.refused
    for _ in range(_LOOKS):
        health = await scene.health("degraded")
        if "clock" not in health["components"]:
            raise Broken(f"/health does not tell of the clock: {health}")
        await asyncio.sleep(0.02)
    if scene.record.messages + scene.record.refused != acknowledged:
        raise Broken("a server that can't know the time acknowledged something")
    clock.put(0)
    since = scene.now()
    await scene.health("healthy")
    await scene.recovered(since)


async def start_ahead(scene: Scene) -> None:
    """A day ahead, then put right while it runs, then at a start again: all goes on."""
    clock = Clock(scene)
    scene.send_all()
    await scene.a_while()
    await scene.server.kill()
    clock.put(_DAY)
    since = scene.now()
    await scene.server.start(environ=clock.environ)
    await scene.recovered(since)
    await scene.a_while()
    clock.put(0)
    await scene.a_while()
    await scene.server.kill()
    since = scene.now()
    await scene.server.start()
    await scene.recovered(since)


CASES = (
    Case("clock a day behind at boot", start_behind, 5),
    Case("clock a day ahead at boot", start_ahead, 5),
)
