"""How much memory the server keeps resident, idle and under the specification's load."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pingup.bench.generator import send_once
from pingup.bench.load import Kind, Load
from pingup.bench.report import Measurement, Target
from pingup.bench.server import Server
from pingup.bench.stage import Stage, register

TARGET = Target(100)
AGENTS = 50
RATE = 1_000  # a second
SECONDS = 10
_SETTLE = 5  # seconds


def measure(stage: Stage) -> Iterator[Measurement]:
    idle: list[float] = []
    peak: list[float] = []
    load = Load(
        kind=Kind.MQTT,
        agents=AGENTS,
        each=stage.amount(RATE * SECONDS // AGENTS),
        connections=AGENTS,
        window=RATE,
        rate=RATE,
        timed=False,
    )
    for run in stage.runs():
        with Server.start(stage.directory / f"run-{run}") as server:
            time.sleep(stage.effort.share * _SETTLE)
            idle.append(server.rss)
            register(server, AGENTS)
            send_once(load, server.mqtt)
            peak.append(server.peak_rss)
    yield Measurement("memory, idle", "MB", idle, TARGET, f"{_SETTLE} s after a first start")
    note = f"the peak, the start included; {AGENTS} agents on the embedded broker, {load.each} samples each"
    yield Measurement(f"memory, at {RATE:,}/s", "MB", peak, TARGET, note)
