"""The real agent after an hour without a broker, with an hour of samples in its spool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pingup.agent.settings import SpoolSettings
from pingup.agent.spool import Spool
from pingup.topics import Kind
from tests.faults.case import Case
from tests.faults.machine import LIMIT, Broken
from tests.faults.message import Message, sample_row, topic_of
from tests.faults.scene import Scene
from tests.faults.stage import Mode

_HOUR = timedelta(hours=1)
_SAMPLES = 3_600
_AT_A_TIME = 900  # what a spool takes before it has to write


async def come_back(scene: Scene) -> None:
    """All of the hour arrives, fresh samples are not held up by it, and the agent's own death in between
    costs nothing."""
    agent = scene.obedient
    scene.send_all()
    await scene.a_while()
    await agent.kill()
    hour = _write_hour(agent.device.id, round(_SAMPLES * scene.share))
    await _fill(agent.home / "spool.db", [message for _, message in hour])
    started = datetime.now(UTC)
    since = scene.now()
    async with scene.watching(topic_of(agent.device.id)) as watcher, scene.unstarved():
        await agent.start()
        await watcher.until(lambda seen: len(seen) > len(hour) * scene.chance.uniform(0.1, 0.5), LIMIT)
        await agent.kill()
        await agent.start()
        late = {moment.isoformat() for moment, _ in hour}
        await watcher.until(lambda seen: late <= {sample["timestamp"] for sample in seen}, 2 * LIMIT)
        _check_freshness(watcher.seen, late, started)
    scene.outcome.recoveries.append(scene.now() - since)
    for _, message in hour:
        scene.record.sent(message)
        scene.record.acknowledge(message, proven=True)


def _write_hour(agent_id: str, count: int) -> list[tuple[datetime, Message]]:
    """What the agent would have measured, as its spool holds it: neither numbered nor signed."""
    begin = datetime.now(UTC) - _HOUR
    hour: list[tuple[datetime, Message]] = []
    for number in range(count):
        moment = begin + number * _HOUR / count
        metrics = {"cpu": number / 100}
        members = {
            "agentId": agent_id,
            "timestamp": moment.isoformat(),
            "metrics": metrics,
            "status": "online",
        }
        row = sample_row(agent_id, moment, metrics, "online")
        hour.append((moment, Message(topic_of(agent_id), json.dumps(members).encode(), (row,))))
    return hour


async def _fill(path: Path, messages: Sequence[Message]) -> None:
    for start in range(0, len(messages), _AT_A_TIME):
        spool = Spool(path, SpoolSettings())
        async with spool.open():
            for message in messages[start : start + _AT_A_TIME]:
                spool.put(Kind.METRICS, message.payload)


def _check_freshness(seen: Sequence[dict[str, Any]], late: set[str], started: datetime) -> None:
    """Something that was measured since must have come before the last of what had waited."""
    last = max(index for index, sample in enumerate(seen) if sample["timestamp"] in late)
    fresh = sum(datetime.fromisoformat(sample["timestamp"]) > started for sample in seen[:last])
    if not fresh:
        raise Broken("no fresh sample came before the whole backlog was through")


CASES = (Case("agent offline for an hour", come_back, 5, modes=(Mode.EMBEDDED, Mode.EXTERNAL)),)
