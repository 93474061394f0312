"""How far memory grows over minutes of the specification's load, beyond the first checkpoint of DuckDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.cases.memory import AGENTS, RATE, TARGET
from tests.benchmarks.load import Load, busy, send
from tests.benchmarks.report import Effort, Measurement
from tests.benchmarks.senders import Publisher
from tests.benchmarks.server import Server

SECONDS = 300


def measure(directory: Path, effort: Effort) -> Iterator[Measurement]:
    seconds = effort.amount(SECONDS)
    each = RATE * seconds // AGENTS
    with Server.start(directory / "data") as server:
        load = Load(server.pid, server.mqtt, server.register(AGENTS), each, window=each, rate=RATE)
        sent = send(Publisher, load)
        peak, after = server.peak_rss, server.rss
    note = f"one run, {RATE:,}/s by MQTT from {AGENTS} agents for {seconds} s; {busy([sent])}"
    yield Measurement("resident memory, peak over minutes", "MB", [peak], TARGET, note)
    yield Measurement("resident memory, after minutes", "MB", [after], TARGET)
    yield Measurement("PUBACK over minutes, p50", "ms", [sent.percentile(50)])
    yield Measurement("PUBACK over minutes, p99", "ms", [sent.percentile(99)])
