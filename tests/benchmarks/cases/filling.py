"""Telemetry put into a data directory before its server starts, through the server's own store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pingup.model import Deposit, Host, Record, Sample, Scan
from pingup.storage.duckdb import DuckDBTelemetry

_BATCH = 500
_EVERY = timedelta(seconds=10)


def fill_with_samples(data_dir: Path, agent_ids: Sequence[str], count: int) -> None:
    """Store samples in the order of time, every agent's 10 s apart, the last ones now."""
    rounds = count // len(agent_ids)
    start = datetime.now(UTC) - rounds * _EVERY
    _store(
        data_dir,
        [
            Sample(agent_id, start + number * _EVERY, number % 100, 43.2, 71.4, number % 50, "online")
            for number in range(rounds)
            for agent_id in agent_ids
        ],
    )


def fill_with_scans(data_dir: Path, agent_id: str, scans: int, hosts: int) -> None:
    """Store an hourly scan with as many hosts each, the last one an hour ago."""
    now = datetime.now(UTC)
    found = tuple(Host(f"192.168.1.{number + 1}", number, (22, 80, 443)) for number in range(hosts))
    moments = [now - timedelta(hours=hours) for hours in range(scans, 0, -1)]
    _store(data_dir, [Scan(agent_id, moment, 15_230, found) for moment in moments])


def _store(data_dir: Path, records: Sequence[Record]) -> None:
    async def store() -> None:
        async with await DuckDBTelemetry.open(data_dir / "analytics.duckdb") as telemetry:
            for start in range(0, len(records), _BATCH):
                batch = records[start : start + _BATCH]
                await telemetry.store([Deposit((record,)) for record in batch])

    asyncio.run(store())
