"""What a server has stored: how long it took, and whether it is all there."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import duckdb

from pingup.bench.lines import run
from pingup.bench.load import Kind, Load
from pingup.bench.messages import device
from pingup.bench.scripts import scripts
from pingup.bench.server import Server, Unmeasured
from pingup.data_dir import TELEMETRY_FILE

LAST_AGENT = 999_999
"""The agent whose sample comes after everything else; to be registered."""
_PATIENCE = 600.0  # seconds
_STEP = 0.1


def publish_last(port: int) -> None:
    """Publish one more sample: when it is stored, so is all that the broker took before it."""
    load = Load(
        kind=Kind.MQTT, agents=1, each=1, connections=1, first_agent=LAST_AGENT, numbered=False, timed=False
    )
    run(scripts(load), load, port)


def wait_for_last(server: Server, data_dir: Path, since: float) -> float:
    """When the commit was that brought the last sample, in seconds since the epoch.

    REST is asked only ten times a second, in order not to keep the server from its work. What tells the
    moment is the time stamp of the database's files, which the last commit has written to.

    Raises:
        Unmeasured: it does not come.
    """
    path = f"/api/v1/metrics/{device(LAST_AGENT).id}?limit=1"
    deadline = time.monotonic() + _PATIENCE
    while True:
        newest = server.call("GET", path)["metrics"]
        seen = time.time()
        if newest and _is_since(newest[0]["timestamp"], since):
            return min(seen, _last_written(data_dir))
        if time.monotonic() > deadline:
            raise Unmeasured("what the broker acknowledged was not stored within ten minutes")
        time.sleep(_STEP)


def _is_since(timestamp: str, since: float) -> bool:
    return datetime.fromisoformat(timestamp).timestamp() >= since


def _last_written(data_dir: Path) -> float:
    files = data_dir.glob("analytics.*")
    return max(file.stat().st_mtime for file in files)


def count_samples(data_dir: Path) -> int:
    """Rows in the table `metrics`; no server may be running there."""
    with duckdb.connect(data_dir / TELEMETRY_FILE, read_only=True) as connection:
        row = connection.execute("SELECT count(*) FROM metrics").fetchone()
    return int(row[0]) if row else 0


def check_count(data_dir: Path, expected: int) -> str:
    """Say that everything is there.

    Raises:
        Unmeasured: something is missing, or there twice.
    """
    found = count_samples(data_dir)
    if found != expected:
        raise Unmeasured(f"{found:,} samples are in the database, {expected:,} were sent")
    return f"{expected:,} samples sent, as many rows in the database"
