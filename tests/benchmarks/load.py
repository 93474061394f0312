"""Load, made in a process of its own: it takes no time from the server that another core could give.

Everything is made and signed before the clock starts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import msgspec
import psutil

from tests.benchmarks.senders import Sender
from tests.benchmarks.server import HOST, Device

_TICK = 0.01  # seconds
_PATIENCE = 600  # seconds for a whole load
_BUSY = 0.9


class Load(msgspec.Struct, frozen=True):
    """What is to be sent: by each device `each` messages, `window` of them unanswered at a time.

    `rate` is messages a second of all devices together, None for as fast as they are answered.
    """

    server_pid: int
    port: int
    devices: tuple[Device, ...]
    each: int
    window: int = 1
    rate: float | None = None


class Sent(msgspec.Struct, frozen=True):
    """What came of a load. `latencies` are seconds from sending to the answer, in order of size.

    `server_cpu` and `own_cpu` are seconds of processor time between the first packet and the last answer.
    """

    seconds: float
    latencies: list[float]
    server_cpu: float
    own_cpu: float

    @property
    def rate(self) -> float:
        """Messages answered a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: int) -> float:
        """Milliseconds that so many percent of the messages took at most (nearest rank)."""
        rank = -(-len(self.latencies) * percent // 100)
        return self.latencies[rank - 1] * 1000


def busy(loads: Sequence[Sent]) -> str:
    """How busy both sides were, and whether the load was the limit."""
    seconds = sum(sent.seconds for sent in loads)
    server = sum(sent.server_cpu for sent in loads) / seconds
    own = sum(sent.own_cpu for sent in loads) / seconds
    limit = "; the load generator was the limit" if own > _BUSY else ""
    return f"the server used {server:.0%} of a core, the load generator {own:.0%}{limit}"


def send(kind: type[Sender], load: Load) -> Sent:
    """Send a load from a fresh process. Raises UnexpectedAnswer when the server does not take it all."""
    with ProcessPoolExecutor(1, get_context("spawn")) as elsewhere:
        return elsewhere.submit(_send, kind, load).result()


def _send(kind: type[Sender], load: Load) -> Sent:
    return asyncio.run(_drive(kind, load))


async def _drive(kind: type[Sender], load: Load) -> Sent:
    senders = [kind(device, load.each, load.window) for device in load.devices]
    async with asyncio.timeout(_PATIENCE):
        for sender in senders:
            await _connect(sender, load.port)
        server_cpu, own_cpu, start = _cpu(load.server_pid), time.process_time(), time.perf_counter()
        await _release(senders, load)
        await asyncio.gather(*(sender.done for sender in senders))
        seconds = time.perf_counter() - start
        sent = Sent(
            seconds,
            sorted(latency for sender in senders for latency in sender.latencies),
            _cpu(load.server_pid) - server_cpu,
            time.process_time() - own_cpu,
        )
    for sender in senders:
        sender.close()
    return sent


async def _connect(sender: Sender, port: int) -> None:
    await asyncio.get_running_loop().create_connection(lambda: sender, HOST, port)
    await sender.ready


async def _release(senders: Sequence[Sender], load: Load) -> None:
    """Let the messages go: all at once, or one after the other at the wanted rate."""
    total = load.each * len(senders)
    start = time.perf_counter()
    due = total if load.rate is None else 0
    while True:
        for index, sender in enumerate(senders):
            sender.allow((due + index) // len(senders))
        if due >= total or load.rate is None:
            return
        await asyncio.sleep(_TICK)
        due = min(total, round((time.perf_counter() - start) * load.rate))


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
