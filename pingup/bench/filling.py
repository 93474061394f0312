"""Samples put into a data directory while no server runs there, many millions a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, timedelta
from pathlib import Path

import duckdb

from pingup.bench.messages import device
from pingup.clock import SystemClock
from pingup.data_dir import TELEMETRY_FILE
from pingup.storage.duckdb import DuckDBTelemetry

EVERY = timedelta(seconds=10)
_AT_ONCE = 1_000_000
_COLD = timedelta(hours=1)

# In the order of time, as samples come. Values wander as those of machines do, with one decimal.
_INSERT = """
INSERT INTO metrics (agent_id, timestamp, cpu, ram, disk, latency, status)
SELECT
    agents[number + 1],
    $start::TIMESTAMP + to_milliseconds(step * $every + number * $every // $count),
    round(30 + 20 * sin(step / 360.0 + number) + 10 * random(), 1),
    round(50 + 5 * sin(step / 5000.0 + number) + random(), 1),
    round(60 + number / 10.0 + step / 100000.0, 1),
    (10 + 20 * random())::INTEGER,
    'online'
FROM
    (SELECT $agents::TEXT[] AS agents),
    range($first, $last) AS steps(step),
    range($count) AS numbers(number)
ORDER BY step, number
"""


def fill_with_samples(
    data_dir: Path, agents: int, each: int, tell: Callable[[str], None] | None = None
) -> int:
    """Store samples of agents, each one's 10 s apart, the last ones now; how many there are of all.

    The server must have been there, and be gone.
    """
    start = (SystemClock().now() - each * EVERY).astimezone(UTC).replace(tzinfo=None)
    ids = [device(number).id for number in range(agents)]
    with duckdb.connect(data_dir / TELEMETRY_FILE) as connection:
        steps = max(1, _AT_ONCE // agents)
        for first in range(0, each, steps):
            if tell is not None:
                tell(f"{first * agents:,} of {each * agents:,} samples are there")
            values = {
                "agents": ids,
                "count": agents,
                "every": EVERY // timedelta(milliseconds=1),
                "start": start,
                "first": first,
                "last": min(each, first + steps),
            }
            connection.execute(_INSERT, values)
        connection.execute("CHECKPOINT")
    return agents * each


def sort_cold(data_dir: Path) -> None:
    """What the server does by and by while it runs: sort what is older than an hour by agent and time."""

    async def sort() -> None:
        async with await DuckDBTelemetry.open(data_dir / TELEMETRY_FILE) as telemetry:
            while await telemetry.sort(SystemClock().now() - _COLD):
                pass

    asyncio.run(sort())
