"""A write-ahead log that a crash, or the disk, has damaged.

What the damage itself took away nobody can give back, so it is counted apart. All that stands before it must
be there, the damaged log must be kept, and what is sent again must be stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.faults.case import Case
from tests.faults.machine import Broken
from tests.faults.message import Message, Row, topic_of
from tests.faults.record import read_rows
from tests.faults.scene import Scene

Damage = Callable[[bytes, int, Random], bytes]


@dataclass
class Ledger:
    """How long the log was when each message was acknowledged: the message is before that, or in the file."""

    log: Path
    acknowledged: list[tuple[int, Message]] = field(default_factory=list)
    checkpointed: list[Message] = field(default_factory=list)
    """Those of logs before this one."""
    _last: int = 0

    def note(self, message: Message) -> None:
        size = self.log.stat().st_size if self.log.exists() else 0
        if size < self._last:
            self.checkpointed += [message for _, message in self.acknowledged]
            self.acknowledged.clear()
        self._last = size
        self.acknowledged.append((size, message))

    @property
    def messages(self) -> list[Message]:
        return [*self.checkpointed, *(message for _, message in self.acknowledged)]

    def before(self, offset: int) -> set[Row]:
        """The rows that damage from there on can't have touched."""
        untouched = (message for size, message in self.acknowledged if size <= offset)
        return {row for message in (*self.checkpointed, *untouched) for row in message.rows}

    def is_end(self, offset: int) -> bool:
        """Whether a transaction ends there, so that a log which is cut there is a whole one."""
        return any(size == offset for size, _ in self.acknowledged)


def cut(log: bytes, offset: int, chance: Random) -> bytes:
    """A log whose end is missing."""
    return log[:offset]


def flip(log: bytes, offset: int, chance: Random) -> bytes:
    """A log with some wrong bytes."""
    size = min(chance.choice((1, 1, 8, 200)), len(log) - offset)
    return log[:offset] + bytes(byte ^ 0xFF for byte in log[offset : offset + size]) + log[offset + size :]


async def damage_log(scene: Scene, damage: Damage) -> None:
    """Kill the server, damage its log somewhere, start it, look; then send everything again."""
    ledger = Ledger(scene.server.data / "analytics.duckdb.wal")
    scene.record.heard = ledger.note
    scene.send_all()
    await scene.a_while()
    await scene.server.kill()
    unfinished = await scene.silence()
    log = ledger.log.read_bytes()
    offset = scene.chance.randrange(1, len(log))
    damaged = damage(log, offset, scene.chance)
    ledger.log.write_bytes(damaged)
    since = scene.now()
    await scene.server.start()
    scene.outcome.recoveries.append(scene.now() - since)
    if not (damage is cut and ledger.is_end(offset)):
        await _check_quarantine(scene, damaged)
    await scene.server.stop()
    _check_rows(scene, ledger, offset)
    await scene.server.start()
    await _send_again(scene, [*ledger.messages, *(message for message in unfinished if message.rows)])


async def _send_again(scene: Scene, messages: Sequence[Message]) -> None:
    for device in (*scene.devices, scene.bystander.device):
        own = topic_of(device.id, "")
        scene.send(device, iter([message for message in messages if message.topic.startswith(own)]))
    await scene.exhausted(scene.senders)


async def _check_quarantine(scene: Scene, damaged: bytes) -> None:
    health = await scene.health("degraded")
    if "damaged" not in health["components"]["duckdb"].get("detail", ""):
        raise Broken(f"/health does not tell of the damaged log: {health}")
    kept = [path.read_bytes() for path in scene.server.data.glob("*.wal.damaged-*")]
    if kept != [damaged]:
        raise Broken("the damaged log was not kept as it was")


def _check_rows(scene: Scene, ledger: Ledger, offset: int) -> None:
    stored = read_rows(scene.server.data / "analytics.duckdb")
    missing = ledger.before(offset) - stored.keys()
    if missing:
        raise Broken(f"{len(missing)} rows are lost that stood before the damage at byte {offset}")
    scene.outcome.taken_by_damage = sum(
        any(row not in stored for row in message.rows) for message in ledger.messages
    )


async def cut_log(scene: Scene) -> None:
    await damage_log(scene, cut)


async def flip_log(scene: Scene) -> None:
    await damage_log(scene, flip)


CASES = (
    Case("log truncated", cut_log, 40),
    Case("log with flipped bytes", flip_log, 40),
)
