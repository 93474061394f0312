"""A broker that is another program: what comes in through it, and REST while it can't be reached."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.load import Load, Sent, send
from tests.benchmarks.mosquitto import running_mosquitto
from tests.benchmarks.report import Effort, Measurement, Target
from tests.benchmarks.senders import Poster, Publisher, Reader
from tests.benchmarks.server import HOST, Device, Server

REST_P99 = Target(50)
AGENTS = 50
WINDOW = 100
EACH = 1_000
CALLS = 500
_PATIENCE = 120.0  # seconds
_STEP = 0.02


def measure(directory: Path, effort: Effort) -> Iterator[Measurement]:
    yield from _throughput(directory, effort)
    with _black_hole() as port, Server.start(directory / "blackholed", *_at(port)) as server:
        devices = server.register(1)
        posts = [_calls(server, devices, Poster, effort) for _ in range(effort.runs)]
        gets = [_calls(server, devices, Reader, effort) for _ in range(effort.runs)]
    note = f"{effort.amount(CALLS)} calls one after the other, while the broker accepts nobody"
    for name, runs in (("POST metrics", posts), ("GET 100 samples", gets)):
        values = [run.percentile(99) for run in runs]
        yield Measurement(f"{name}, broker blackholed, p99", "ms", values, REST_P99, note)


def _at(port: int) -> tuple[str, ...]:
    return ("--mqtt-url", f"mqtt://server@{HOST}:{port}")


@contextmanager
def _black_hole() -> Iterator[int]:
    """A port whose backlog is full, so that nothing that connects ever gets an answer."""
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind((HOST, 0))
        listener.listen(0)
        filler.connect(listener.getsockname())
        yield int(listener.getsockname()[1])


def _calls(server: Server, devices: tuple[Device, ...], kind: type[Poster], effort: Effort) -> Sent:
    return send(kind, Load(server.pid, server.http, devices, effort.amount(CALLS)))


def _throughput(directory: Path, effort: Effort) -> Iterator[Measurement]:
    rates: list[float] = []
    costs: list[float] = []
    with running_mosquitto(directory) as port, Server.start(directory / "data", *_at(port)) as server:
        devices = server.register(AGENTS)
        for _ in range(effort.runs):
            load = Load(server.pid, port, devices, effort.amount(EACH), window=WINDOW)
            begin, used = datetime.now(UTC), _cpu(server.pid)
            sent = send(Publisher, load)
            seconds = sent.seconds + _until_stored(server, load, begin)
            count = load.each * len(devices)
            rates.append(count / seconds)
            costs.append((_cpu(server.pid) - used) / count * 1e6)
    name = f"through Mosquitto, {AGENTS} agents, {WINDOW} in flight each"
    yield Measurement(name, "/s", rates, note="from the first packet until REST shows the last one")
    yield Measurement("the server's processor time for one of them", "µs", costs)


def _until_stored(server: Server, load: Load, begin: datetime) -> float:
    """Seconds until the newest sample of each agent is the last one that was sent after `begin`."""
    start = time.perf_counter()
    last = (load.each - 1) % 1000 / 10
    while time.perf_counter() - start < _PATIENCE:
        newest = server.call("GET", "/api/v1/metrics")["metrics"]
        if sum(_is_last(sample, last, begin) for sample in newest) == len(load.devices):
            return time.perf_counter() - start
        time.sleep(_STEP)
    raise RuntimeError("not everything that the broker acknowledged was stored")


def _is_last(sample: dict[str, Any], cpu: float, begin: datetime) -> bool:
    is_new = datetime.fromisoformat(sample["timestamp"]) > begin
    return is_new and math.isclose(sample["cpu"], cpu)


def _cpu(pid: int) -> float:
    """Seconds of processor time so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
