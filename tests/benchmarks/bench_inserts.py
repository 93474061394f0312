"""How fast rows get into DuckDB, by three ways that need no other package, and by the store itself.

`python tests/benchmarks/bench_inserts.py` prints a table; docs/decisions/0001-duckdb-inserts.md builds on it.
Every batch is a transaction of its own. A run writes about as many rows for every way.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from pingup.bench.report import Measurement
from pingup.bench.stage import Stage
from pingup.model import Deposit, Fate, Run, Sample
from pingup.storage.duckdb import DuckDBTelemetry, migrate

RUNS = 5
BATCHES_BY_SIZE = {1: 200, 100: 60, 1000: 20, 10_000: 3}
AGENTS = 50
START = datetime(2026, 1, 1, tzinfo=UTC)

Row = tuple[Any, ...]
Insert = Callable[[Sequence[Row]], None]


def main() -> None:
    print(
        f"DuckDB {duckdb.__version__}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.release()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"rows/s, median of {RUNS} runs (min–max)\n"
    )
    print(f"| way | {' | '.join(f'batches of {size:,}' for size in BATCHES_BY_SIZE)} |")
    print(f"|---|{'---:|' * len(BATCHES_BY_SIZE)}")
    for name, way in {"appender kept open": appender, "unnest of lists": unnest, "VALUES": values}.items():
        _print(name, [measure_way(way, size) for size in BATCHES_BY_SIZE])
    for name, repeating, numbered in (
        ("store(), all new", False, False),
        ("store(), all new and numbered", False, True),
        ("store(), all repeats", True, False),
    ):
        rates = [asyncio.run(measure_store(size, repeating, numbered)) for size in BATCHES_BY_SIZE]
        _print(name, rates)


def measure(stage: Stage) -> Iterator[Measurement]:
    """The store alone as a case of `make bench`."""
    for size in BATCHES_BY_SIZE:
        rates = asyncio.run(measure_store(size, repeating=False))
        yield Measurement(f"store alone, commits of {size:,}", "/s", rates[: stage.effort.runs])


def _print(name: str, rates_by_size: Sequence[Sequence[float]]) -> None:
    cells = [f"{median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f})" for rates in rates_by_size]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


# --- the ways ----------------------------------------------------------------------------------------


def appender(connection: duckdb.DuckDBPyConnection) -> Insert:
    kept = connection.appender("metrics")

    def insert(rows: Sequence[Row]) -> None:
        kept.append_rows(rows)
        kept.flush()

    return insert


def unnest(connection: duckdb.DuckDBPyConnection) -> Insert:
    types = ("TEXT", "TIMESTAMP", "DOUBLE", "DOUBLE", "DOUBLE", "INTEGER", "TEXT", "TEXT")
    columns = ", ".join(f"unnest(?::{kind}[])" for kind in types)

    def insert(rows: Sequence[Row]) -> None:
        lists = [list(column) for column in zip(*rows, strict=True)]
        connection.execute(f"INSERT INTO metrics SELECT {columns}", lists)

    return insert


def values(connection: duckdb.DuckDBPyConnection) -> Insert:
    def insert(rows: Sequence[Row]) -> None:
        marks = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * len(rows))
        connection.execute(f"INSERT INTO metrics VALUES {marks}", [value for row in rows for value in row])

    return insert


# --- the runs ----------------------------------------------------------------------------------------


def measure_way(way: Callable[[duckdb.DuckDBPyConnection], Insert], size: int) -> list[float]:
    """Rows per second of each run."""
    with _file() as file, duckdb.connect(file, config={"threads": 2}) as connection:
        insert = way(connection)
        samples = _samples()
        rates = []
        for _ in range(RUNS + 1):
            batches = [[_row(next(samples)) for _ in range(size)] for _ in range(BATCHES_BY_SIZE[size])]
            start = time.perf_counter()
            for batch in batches:
                connection.begin()
                insert(batch)
                connection.commit()
            rates.append(size * len(batches) / (time.perf_counter() - start))
        return rates[1:]


async def measure_store(size: int, repeating: bool, numbered: bool = False) -> list[float]:
    """Rows per second of each run, repeats found and conversion included; a message a sample."""
    with _file() as file:
        async with await DuckDBTelemetry.open(file) as telemetry:
            samples = enumerate(_samples())
            rates = []
            for _ in range(RUNS + 1):
                batches = [
                    _deposit(list(islice(samples, size)), numbered) for _ in range(BATCHES_BY_SIZE[size])
                ]
                if repeating:
                    await _store(telemetry.store, batches)
                start = time.perf_counter()
                await _store(telemetry.store, batches)
                rates.append(size * len(batches) / (time.perf_counter() - start))
            return rates[1:]


async def _store(store: Callable[[Deposit], Awaitable[list[bool]]], batches: Sequence[Deposit]) -> None:
    for batch in batches:
        await store(batch)


@contextmanager
def _file() -> Iterator[Path]:
    with TemporaryDirectory() as directory:
        file = Path(directory) / "analytics.duckdb"
        migrate(file)
        yield file


def _samples() -> Iterator[Sample]:
    """Samples in the order of time, from several agents by turns."""
    for number in count():
        moment = START + timedelta(milliseconds=20 * number)
        yield Sample(f"agent-{number % AGENTS}", moment, number % 97 + 0.5, 43.2, 71.4, number % 50, "online")


def _deposit(samples: Sequence[tuple[int, Sample]], numbered: bool) -> Deposit:
    """Messages of one sample each, numbered by agent or not."""
    by_agent: dict[str, list[tuple[int, Sample]]] = {}
    for number, sample in samples if numbered else ():
        by_agent.setdefault(sample.agent_id, []).append((number // AGENTS + 1, sample))
    runs = [_run(agent_id, mine[0], mine[-1]) for agent_id, mine in by_agent.items()]
    return Deposit([sample for _, sample in samples], runs)


def _run(agent_id: str, first: tuple[int, Sample], last: tuple[int, Sample]) -> Run:
    (low, oldest), (high, newest) = first, last
    moment = newest.timestamp
    return Run(agent_id, "spool", Fate.STORED, low, high, 1, oldest.timestamp, moment, moment)


def _row(sample: Sample) -> Row:
    moment = sample.timestamp.replace(tzinfo=None)
    return (
        sample.agent_id,
        moment,
        sample.cpu,
        sample.ram,
        sample.disk,
        sample.latency,
        sample.status,
        sample.extra,
    )


if __name__ == "__main__":
    main()
