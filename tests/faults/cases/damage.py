"""A journal or a write-ahead log that a crash, or the disk, has damaged.

What the damage itself took away nobody can give back, so it is counted apart. All that stands before it must
be there, the damaged file must be kept, and what is sent again must be stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from tests.faults.case import Case
from tests.faults.ledger import Ledger
from tests.faults.machine import LIMIT, Broken, size_of, within
from tests.faults.message import Message, topic_of
from tests.faults.record import read_rows
from tests.faults.scene import Scene
from tests.faults.stage import Setting

Damage = Callable[[bytes, int, Random], bytes]

_JOURNAL_FORMAT = b"pingup journal 1\n"
_ENTRY_HEAD = 8  # bytes: the size of what follows, and a checksum
# The entry of DuckDB's log that ends a transaction: its size, its checksum, and that it is one.
_END_OF_TRANSACTION = bytes.fromhex("0500000000000000e7fe7d722fed3d5e640064ffff")
# Before the first transaction it only says whose log it is.
_LOG_HEAD = 57
_FRONT = 100


def cut(content: bytes, offset: int, chance: Random) -> bytes:
    """A file whose end is missing."""
    return content[:offset]


def flip(content: bytes, offset: int, chance: Random) -> bytes:
    """A file with some wrong bytes."""
    end = offset + min(chance.choice((1, 1, 8, 200)), len(content) - offset)
    return content[:offset] + bytes(byte ^ 0xFF for byte in content[offset:end]) + content[end:]


async def damage_log(scene: Scene, damage: Damage) -> None:
    """Kill the server, damage DuckDB's log or the journal somewhere, start it, look; then send all again."""
    ledger = Ledger(scene.server.journal, scene.server.duckdb_log)
    scene.record.departing, scene.record.heard = ledger.depart, ledger.note
    scene.send_all()
    await scene.a_while()
    file = scene.chance.choice(scene.server.logs)
    await _kill_while_filled(scene, file)
    unfinished = await scene.silence()
    ledger.look()
    content = file.read_bytes()
    offset = scene.chance.randrange(1, len(content) if scene.chance.random() < 0.8 else _FRONT)
    damaged = damage(content, offset, scene.chance)
    file.write_bytes(damaged)
    since = scene.now()
    await scene.server.start()
    scene.outcome.recoveries.append(scene.now() - since)
    if damage is flip or not _is_whole(damaged, ledger, is_journal=file == scene.server.journal):
        await _check_quarantine(scene, file, damaged)
    await scene.server.stop()
    _check_rows(scene, ledger, file, offset)
    scene.record.departing = scene.record.heard = None
    await scene.server.start()
    await _send_again(scene, [*ledger.messages, *(message for message in unfinished if message.rows)])


async def _kill_while_filled(scene: Scene, file: Path) -> None:
    """Wait until a file has as many bytes as the seed wants, and kill the server before it has less."""
    wanted = max(_FRONT, round(10 ** scene.chance.uniform(2, 4) * scene.share))
    async with within(LIMIT, f"{file.name} did not grow to {wanted} bytes"):
        while True:
            await scene.record.grow()
            if size_of(file) < wanted:
                continue
            await scene.server.stand_still()
            if size_of(file) >= wanted:
                break
            scene.server.thaw()
    await scene.server.kill()


def _is_whole(damaged: bytes, ledger: Ledger, *, is_journal: bool) -> bool:
    """Whether a file that was cut looks as if nothing had ever come after."""
    if is_journal:
        return len(damaged) <= len(_JOURNAL_FORMAT) or _end_of_entries(damaged) == len(damaged)
    is_end = len(damaged) in ledger.log_sizes or len(damaged) <= _LOG_HEAD
    return is_end or damaged.endswith(_END_OF_TRANSACTION)


def _end_of_entries(journal: bytes) -> int:
    """Where the last entry of a journal ends that was cut, or would have ended."""
    end = len(_JOURNAL_FORMAT)
    while end < len(journal):
        end += _ENTRY_HEAD + int.from_bytes(journal[end : end + 4], "little")
    return end


async def _send_again(scene: Scene, messages: Sequence[Message]) -> None:
    for device in (*scene.devices, scene.bystander.device):
        own = topic_of(device.id, "")
        scene.send(device, iter([message for message in messages if message.topic.startswith(own)]))
    await scene.exhausted(scene.senders)


async def _check_quarantine(scene: Scene, file: Path, damaged: bytes) -> None:
    health = await scene.health("degraded")
    if "damaged" not in health["components"]["duckdb"].get("detail", ""):
        raise Broken(f"/health does not tell of the damaged {file.name}: {health}")
    kept = [path.read_bytes() for path in scene.server.data.glob(f"{file.name}.damaged-*")]
    if kept != [damaged]:
        raise Broken(f"the damaged {file.name} was not kept as it was")


def _check_rows(scene: Scene, ledger: Ledger, file: Path, offset: int) -> None:
    stored = read_rows(scene.server.duckdb)
    missing = ledger.before(file, offset) - stored.keys()
    if missing:
        told = f"before the damage to {file.name} at byte {offset}"
        raise Broken(f"{len(missing)} rows are lost that stood {told}")
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
    Case("journal or log truncated", cut_log, 40, Setting(journal=True)),
    Case("journal or log with flipped bytes", flip_log, 40, Setting(journal=True)),
)
