"""Samples and scans to store, small worlds of them for properties, and processes that store them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import PIPE, Popen

from hypothesis import strategies as st

import pingup
from pingup.model import Deposit, Host, Order, Place, Record, Sample, Scan, Span
from pingup.storage.duckdb import DuckDBTelemetry
from pingup.storage.duckdb.writer import JOURNALED_BELOW

START = datetime(2026, 2, 25, 10, tzinfo=UTC)
EVERYTHING = Span(limit=10_000, order=Order.ASC)
ROOT = Path(pingup.__file__).parents[1]

# How large a deposit must be to go straight into DuckDB: none goes into the journal, or those of one record,
# or all of a test.
NEVER_JOURNALED = 0
WAYS = (NEVER_JOURNALED, 2, JOURNALED_BELOW)
ways = st.sampled_from(WAYS)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def sample(agent_id: str = "A", seconds: float = 0, cpu: float | None = 1.0) -> Sample:
    return Sample(agent_id, at(seconds), cpu, 43.2, 71.4, 8, "online")


def scan(agent_id: str = "A", seconds: float = 0, hosts: int = 2) -> Scan:
    found = (Host(f"10.0.0.{number}", number, (22, 443)) for number in range(1, hosts + 1))
    return Scan(agent_id, at(seconds), 15_230, tuple(found))


@asynccontextmanager
async def opened(directory: Path, journaled_below: int = JOURNALED_BELOW) -> AsyncIterator[DuckDBTelemetry]:
    file = directory / "analytics.duckdb"
    async with await DuckDBTelemetry.open(file, journaled_below=journaled_below) as telemetry:
        yield telemetry


async def crashed(telemetry: DuckDBTelemetry, directory: Path) -> Path:
    """Another directory, with what a crash at this moment would leave in that of an open store."""
    copy = directory / "crashed"
    # On its thread nothing is being written meanwhile.
    await telemetry._write(shutil.copytree, directory, copy)
    return copy


async def store(telemetry: DuckDBTelemetry, records: Sequence[Record]) -> list[bool]:
    """Store records as they come by messages without numbers."""
    return await telemetry.store(Deposit(records))


async def all_samples(telemetry: DuckDBTelemetry, agent_id: str = "A") -> list[Sample]:
    return await telemetry.samples(agent_id, EVERYTHING)


async def all_scans(telemetry: DuckDBTelemetry, agent_id: str = "A") -> list[Scan]:
    return await telemetry.scans(agent_id, EVERYTHING)


class Model:
    """What the store promises, in a list: every record once, in the order of its storing."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def store(self, records: Sequence[Record]) -> list[bool]:
        flags = []
        for record in records:
            flags.append(record not in self.records)
            if flags[-1]:
                self.records.append(record)
        return flags

    def keep(self, is_kept: Callable[[Record], bool]) -> None:
        self.records = [record for record in self.records if is_kept(record)]

    def history(self, kind: type[Sample] | type[Scan], agent_id: str, order: Order) -> list[Record]:
        mine = [one for one in self.records if isinstance(one, kind) and one.agent_id == agent_id]
        return sorted(mine, key=lambda one: one.timestamp, reverse=order is Order.DESC)


def place_after(moments: Sequence[datetime], before: Place | None) -> Place:
    """Where a page with records of these moments ended, as whoever pages remembers it."""
    shown = sum(moment == moments[-1] for moment in moments)
    if before is not None and before.timestamp == moments[-1]:
        shown += before.shown
    return Place(moments[-1], shown)


def start_process(script: str, *arguments: object) -> Popen[str]:
    """A process of its own that runs a script of this package's Python."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True)


# Few values, so that repeats, equal moments and near misses are common.
samples = st.builds(
    Sample,
    agent_id=st.sampled_from(["A", "B"]),
    timestamp=st.integers(0, 4).map(at),
    cpu=st.sampled_from([None, 0.0, 1.5]),
    ram=st.sampled_from([None, 0.0]),
    disk=st.none(),
    latency=st.sampled_from([None, 0, 7]),
    status=st.sampled_from(["online", "busy"]),
    extra=st.sampled_from([None, '{"load":1.0}']),
)
hosts = st.builds(
    Host,
    ip=st.sampled_from(["10.0.0.1", "::1"]),
    latency=st.sampled_from([None, 0, 3]),
    ports=st.sampled_from([(), (22,), (80, 443)]),
    hostname=st.sampled_from([None, "", "a.lan"]),
)
scans = st.builds(
    Scan,
    agent_id=st.sampled_from(["A", "B"]),
    timestamp=st.integers(0, 4).map(at),
    duration=st.sampled_from([0, 10]),
    hosts=st.lists(hosts, max_size=3).map(tuple),
)
