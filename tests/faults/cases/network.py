"""A network that cuts, stalls, tears packets apart and closes one half."""

from __future__ import annotations

import asyncio

from tests.faults.case import Case
from tests.faults.scene import Scene
from tests.faults.stage import Mode, Setting


async def break_network(scene: Scene) -> None:
    """Between agents and broker and, where the broker is outside, between it and the server."""
    scene.send_all(patience=0.5)
    proxies = [scene.upstream] if scene.mode is Mode.EMBEDDED else [scene.upstream, scene.link]
    harm = [scene.spawn(proxy.misbehave(scene.chance)) for proxy in proxies]
    async with scene.unstarved():
        await asyncio.sleep(scene.chance.uniform(2, 4) * scene.share)
        await scene.a_while()
    for task in harm:
        task.cancel()
    await asyncio.wait(harm)
    await scene.recovered(scene.now())


CASES = (
    Case(
        "network cuts, stalls, half-closes",
        break_network,
        20,
        Setting(proxied=True),
        modes=(Mode.EMBEDDED, Mode.EXTERNAL),
    ),
)
