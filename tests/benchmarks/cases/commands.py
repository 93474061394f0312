"""How long a command takes: posted, stored, signed, sent to a real agent, carried out, its result stored."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks.report import Effort, Measurement
from tests.benchmarks.server import HOST, Device, Server, start_process

COMMANDS = 40  # a run
_STEP = 0.001  # seconds
_PATIENCE = 30.0


def measure(directory: Path, effort: Effort) -> Iterator[Measurement]:
    with Server.start(directory / "data") as server:
        (device,) = server.register(1)
        secret = directory / "secret"
        secret.write_text(device.secret)
        secret.chmod(0o600)
        with start_process(*_agent(server, device, directory), log=directory / "agent.log"):
            _wait(server, f"/api/v1/agents/{device.id}", "agent", "online")
            count = effort.amount(COMMANDS)
            runs = [[_round_trip(server, device) for _ in range(count)] for _ in range(effort.runs)]
    note = f"{count} times `ping`, one after the other, looked for with GET about every millisecond"
    yield Measurement("command round trip, p50", "ms", [median(run) for run in runs], note=note)
    yield Measurement("command round trip, slowest", "ms", [max(run) for run in runs])


def _agent(server: Server, device: Device, directory: Path) -> tuple[str, ...]:
    where = ("--url", f"mqtt://{HOST}:{server.mqtt}", "--data-dir", str(directory / "agent"))
    return ("agent", "run", "--id", device.id, "--secret-file", str(directory / "secret"), *where)


def _round_trip(server: Server, device: Device) -> float:
    """Milliseconds until REST shows the command as completed."""
    begin = time.perf_counter()
    command = server.call("POST", "/api/v1/commands", {"agentId": device.id, "action": "ping"})["command"]
    _wait(server, f"/api/v1/commands/{command['commandId']}", "command", "completed")
    return (time.perf_counter() - begin) * 1000


def _wait(server: Server, path: str, noun: str, status: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while server.call("GET", path)[noun]["status"] != status:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{path} did not become {status}")
        time.sleep(_STEP)
