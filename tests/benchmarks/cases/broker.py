"""How many samples 50 agents get stored through the embedded broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb

from tests.benchmarks.load import Load, Sent, busy, send
from tests.benchmarks.report import Effort, Measurement, Target
from tests.benchmarks.senders import Publisher
from tests.benchmarks.server import Server

TARGET = Target(5_000, at_least=True)
AGENTS = 50
WINDOW = 20  # what MQTT clients commonly have in flight
EACH = 500


def measure(directory: Path, effort: Effort) -> Iterator[Measurement]:
    data_dir = directory / "data"
    with Server.start(data_dir) as server:
        load = Load(server.pid, server.mqtt, server.register(AGENTS), effort.amount(EACH), window=WINDOW)
        sent = [send(Publisher, load) for _ in range(effort.runs)]
    name = f"MQTT QoS 1, {AGENTS} agents, {WINDOW} in flight each"
    yield Measurement(
        name, "/s", [one.rate for one in sent], TARGET, f"{busy(sent)}; {_kept(data_dir, sent)}"
    )
    yield Measurement("its PUBACK, p50", "ms", [one.percentile(50) for one in sent])
    yield Measurement("its PUBACK, p99", "ms", [one.percentile(99) for one in sent])


def _kept(data_dir: Path, sent: list[Sent]) -> str:
    """Whether what was acknowledged is in the database, now that the server has ended."""
    acknowledged = sum(len(one.latencies) for one in sent)
    with duckdb.connect(data_dir / "analytics.duckdb", read_only=True) as connection:
        row = connection.execute("SELECT count(*) FROM metrics").fetchone()
    stored = row[0] if row else 0
    return f"{acknowledged:,} acknowledged, {stored:,} rows in the database afterwards"
