"""Too much of something: repeats, nonsense, agents."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator

from tests.faults.case import Case
from tests.faults.load import Sender
from tests.faults.machine import LIMIT, Broken, within
from tests.faults.malformed import Breaker
from tests.faults.message import Device, Message
from tests.faults.scene import Scene
from tests.faults.stage import Mode, Setting

_BOTH = (Mode.EMBEDDED, Mode.EXTERNAL)
_REPEATED, _MALFORMED, _AGENTS = 500, 10_000, 2_000
_AGENT_PAUSE = 5.0


async def repeat(scene: Scene) -> None:
    """Everything three times and in any order, half of it to a server that was started anew."""
    *devices, last = scene.devices
    scene.send(last, numbered=True)
    supplies = {device: _shuffled(scene, device) for device in devices}
    await scene.exhausted(
        [scene.send(device, iter(messages[: len(messages) // 2])) for device, messages in supplies.items()]
    )
    since = scene.now()
    await scene.server.stop()
    await scene.server.start()
    await scene.recovered(since)
    await scene.exhausted(
        [scene.send(device, iter(messages[len(messages) // 2 :])) for device, messages in supplies.items()]
    )


def _shuffled(scene: Scene, device: Device) -> list[Message]:
    supply = scene.supply(device)
    messages = 3 * [next(supply) for _ in range(round(_REPEATED * scene.share))]
    scene.chance.shuffle(messages)
    return messages


async def malform(scene: Scene) -> None:
    """One agent sends nonsense only; then it sends well again."""
    broken, *others = scene.devices
    for device in others:
        scene.send(device)
    count = round(_MALFORMED * scene.share)
    async with scene.watching("pingup/v1/sys/rejects") as watcher, scene.unstarved():
        nonsense = scene.send(
            broken, Breaker(broken, scene.chance).messages(count), window=100, patience=LIMIT
        )
        await scene.senders[nonsense]
        await watcher.until(lambda seen: _refused(seen, broken) >= count, LIMIT)
    if nonsense.answered != count:
        raise Broken(f"{nonsense.answered} of {count} malformed messages were acknowledged")
    since = scene.now()
    good = scene.send(broken, _only_genuine(scene, broken))
    await good.grow(1)
    scene.outcome.recoveries.append(scene.now() - since)
    await good.grow(100)


def _refused(seen: list[dict[str, object]], device: Device) -> int:
    return sum(reject["agentId"] == device.id for reject in seen)


def _only_genuine(scene: Scene, device: Device) -> Iterator[Message]:
    return (message for message in scene.supply(device) if message.rows)


async def storm(scene: Scene) -> None:
    """A fleet that reconnects in the same moment, because the server was killed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    fleet = await scene.register(*(f"fleet-{number}" for number in range(round(_AGENTS * scene.share))))
    senders = [scene.send(device, pause=_AGENT_PAUSE, patience=LIMIT) for device in fleet]
    await _all_answered(senders)
    since = scene.now()
    await scene.server.kill()
    await scene.server.start()
    await _all_answered([*senders, scene.bystander])
    scene.outcome.recoveries.append(scene.now() - since)


async def _all_answered(senders: list[Sender]) -> None:
    """Wait until each has had an answer."""
    async with within(2 * LIMIT, "not every agent of the fleet was answered"):
        await asyncio.gather(*(sender.grow(1) for sender in senders))


CASES = (
    Case("duplicates x3, shuffled", repeat, 5, modes=_BOTH),
    Case("10,000 malformed, then good", malform, 3, modes=_BOTH),
    Case("2,000 agents reconnect at once", storm, 3, Setting(rss_limit=400)),
)
