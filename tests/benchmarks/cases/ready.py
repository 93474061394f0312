"""How long after its start the server answers /health with 200."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.benchmarks.cases.filling import fill_with_samples
from tests.benchmarks.report import Effort, Measurement, Target
from tests.benchmarks.server import HOST, Server, serve, start_process

TARGET = Target(500)
AGENTS = 50
SAMPLES = 100_000
_STEP = 0.002  # seconds
_PATIENCE = 30.0


def measure(directory: Path, effort: Effort) -> Iterator[Measurement]:
    _start(directory / "warm-up")
    fresh = [_start(directory / f"fresh-{run}") for run in range(effort.runs)]
    yield Measurement("ready, fresh data directory", "ms", fresh, TARGET)

    used = directory / "used"
    with Server.start(used) as server:
        devices = server.register(AGENTS)
    count = effort.amount(SAMPLES)
    fill_with_samples(used, [device.id for device in devices], count)
    again = [_start(used) for _ in range(effort.runs)]
    note = f"{AGENTS} agents, {count:,} samples"
    yield Measurement("ready, used data directory", "ms", again, TARGET, note)


def _start(data_dir: Path) -> float:
    """Milliseconds from the start of the process to its first good answer."""
    port = _free_port()
    arguments = serve(data_dir, http_port=port)
    begin = time.perf_counter()
    log = data_dir.with_suffix(".log")
    with start_process(*arguments, log=log) as process:
        while not _is_healthy(port):
            if process.poll() is not None or time.perf_counter() - begin > _PATIENCE:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}")
            time.sleep(_STEP)
        return (time.perf_counter() - begin) * 1000


def _is_healthy(port: int) -> bool:
    connection = HTTPConnection(HOST, port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
