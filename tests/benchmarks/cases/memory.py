"""How much memory the server keeps resident, idle and under the specification's load."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.load import Load, Sent, send
from tests.benchmarks.report import Effort, Measurement, Target
from tests.benchmarks.senders import Poster, Publisher
from tests.benchmarks.server import Device, Server

TARGET = Target(100)
AGENTS = 50
RATE = 1_000  # a second
SECONDS = 10  # by MQTT, and as many by REST
_SETTLE = 5  # seconds


def measure(directory: Path, effort: Effort) -> Iterator[Measurement]:
    idle: list[float] = []
    peak: list[float] = []
    sent: list[Sent] = []
    for run in range(effort.runs):
        with Server.start(directory / f"run-{run}") as server:
            time.sleep(_SETTLE)
            idle.append(server.rss)
            sent += _load(server, server.register(AGENTS), effort.amount(RATE * SECONDS // AGENTS))
            peak.append(server.peak_rss)
    yield Measurement("resident memory, idle", "MB", idle, TARGET, f"{_SETTLE} s after a first start")
    slowest = min(one.rate for one in sent)
    note = (
        f"{RATE:,}/s by MQTT, then as many by REST, {effort.amount(SECONDS)} s each, from {AGENTS} agents; "
        f"the slowest run kept {slowest:,.0f}/s; the peak includes the start"
    )
    yield Measurement("resident memory, peak under load", "MB", peak, TARGET, note)


def _load(server: Server, devices: tuple[Device, ...], each: int) -> list[Sent]:
    mqtt = Load(server.pid, server.mqtt, devices, each, window=each, rate=RATE)
    rest = Load(server.pid, server.http, devices, each, rate=RATE)
    return [send(Publisher, mqtt), send(Poster, rest)]
