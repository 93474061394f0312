"""How long after its start the server answers /health with 200."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from pingup.bench.filling import fill_with_samples
from pingup.bench.report import Measurement, Target
from pingup.bench.server import HOST, Server, Unmeasured, free_port, serve, start_process
from pingup.bench.stage import Stage, register

TARGET = Target(500)
AGENTS = 50
SAMPLES = 100_000
_STEP = 0.002  # seconds
_PATIENCE = 60.0


def measure(stage: Stage) -> Iterator[Measurement]:
    time_to_ready(stage.directory / "warm-up")
    used = stage.directory / "used"
    with Server.start(used) as server:
        register(server, AGENTS)
    count = stage.amount(SAMPLES)
    fill_with_samples(used, AGENTS, count // AGENTS)
    fresh: list[float] = []
    again: list[float] = []
    for run in stage.runs():
        fresh.append(time_to_ready(stage.directory / f"fresh-{run}"))
        again.append(time_to_ready(used))
    yield Measurement("start, fresh data directory", "ms", fresh, TARGET, "until /health answers with 200")
    yield Measurement("start, used", "ms", again, TARGET, f"{AGENTS} agents, {count:,} samples")


def time_to_ready(data_dir: Path) -> float:
    """Milliseconds from the start of the process to its first good answer."""
    port = free_port()
    log = data_dir.with_suffix(".log")
    begin = time.monotonic()
    with start_process(*serve(data_dir, http_port=port), log=log) as process:
        while not _is_healthy(port):
            if process.poll() is not None or time.monotonic() - begin > _PATIENCE:
                raise Unmeasured(f"the server did not start: {log.read_text('utf-8')}")
            time.sleep(_STEP)
        return (time.monotonic() - begin) * 1000


def _is_healthy(port: int) -> bool:
    connection = HTTPConnection(HOST, port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
