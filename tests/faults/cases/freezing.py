"""A process that neither lives nor dies: SIGSTOP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.faults.case import Case
from tests.faults.machine import LIMIT
from tests.faults.scene import Scene
from tests.faults.stage import Mode, Setting

_BOTH = (Mode.EMBEDDED, Mode.EXTERNAL)


async def freeze_server(scene: Scene) -> None:
    """Devices lose patience, connect again and again, and find it back."""
    scene.send_all(patience=0.5)
    for _ in range(2):
        await scene.a_while()
        scene.server.freeze()
        await asyncio.sleep(scene.chance.uniform(0.2, 2.5))
        scene.server.thaw()
        await scene.recovered(scene.now())


async def freeze_agent(scene: Scene) -> None:
    """A half-open connection: its will comes out, and it is there again when it is back."""
    scene.send_all()
    async with scene.watching(f"pingup/v1/up/{scene.obedient.device.id}/status") as watcher:
        await watcher.until(_ends_with("online"), LIMIT)
        scene.obedient.freeze()
        async with scene.unstarved():
            await watcher.until(_ends_with("offline"), 2 * LIMIT)
        scene.obedient.thaw()
        since = scene.now()
        await watcher.until(_ends_with("online"), LIMIT)
        scene.outcome.recoveries.append(scene.now() - since)


def _ends_with(status: str) -> Callable[[list[Any]], bool]:
    return lambda seen: bool(seen) and seen[-1]["status"] == status


CASES = (
    Case("server SIGSTOP", freeze_server, 10, modes=_BOTH),
    # It is its will that is waited for, not its silence, and the agent promises a packet every 30 s.
    Case("agent SIGSTOP", freeze_agent, 2, Setting(agent_interval=60), modes=_BOTH, brief=False),
)
