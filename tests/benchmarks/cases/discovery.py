"""How long the discovery query of the specification takes: the scans of 30 days."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.cases.filling import fill_with_scans
from tests.benchmarks.report import Effort, Measurement, Target
from tests.benchmarks.server import Server

TARGET = Target(1_000)
SCANS = 30 * 24
HOSTS = 50


def measure(directory: Path, effort: Effort) -> Iterator[Measurement]:
    data_dir = directory / "data"
    with Server.start(data_dir) as server:
        (device,) = server.register(1)
    fill_with_scans(data_dir, device.id, SCANS, HOSTS)
    with Server.start(data_dir) as server:
        values = [
            _ask(server, f"/api/v1/discovery/{device.id}?from=-31d&limit=1000") for _ in range(effort.runs)
        ]
        note = f"answered in full as JSON; the server's memory peaks at {server.peak_rss:,.0f} MB"
    yield Measurement(f"discovery, {SCANS} scans of {HOSTS} hosts", "ms", values, TARGET, note)


def _ask(server: Server, path: str) -> float:
    begin = time.perf_counter()
    found = server.call("GET", path)["discovery"]
    taken = (time.perf_counter() - begin) * 1000
    if [len(scan["hosts"]) for scan in found] != [HOSTS] * SCANS:
        raise RuntimeError("the answer does not hold what was stored")
    return taken
