"""How fast store alone takes samples, without broker, signatures and sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.bench_inserts import BATCHES_BY_SIZE, measure_store
from tests.benchmarks.report import Effort, Measurement


def measure(directory: Path, effort: Effort) -> Iterator[Measurement]:
    for size in BATCHES_BY_SIZE:
        rates = asyncio.run(measure_store(size, repeating=False))
        yield Measurement(f"store alone, commits of {size:,}", "/s", rates[: effort.runs])
