"""How long a command takes: posted, stored, signed, sent to a real agent, carried out, its result stored."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from pingup.bench.messages import Device, device
from pingup.bench.report import Measurement
from pingup.bench.server import HOST, Server, Unmeasured, start_process
from pingup.bench.stage import Stage, register

COMMANDS = 40  # a run
_STEP = 0.001  # seconds
_PATIENCE = 30.0


def measure(stage: Stage) -> Iterator[Measurement]:
    directory, agent = stage.directory, device(0)
    secret = directory / "secret"
    secret.write_text(agent.secret, "utf-8")
    secret.chmod(0o600)
    count = stage.amount(COMMANDS)
    with Server.start(directory / "data") as server:
        register(server, 1)
        arguments = (
            *("agent", "run", "--id", agent.id, "--secret-file", str(secret)),
            *("--url", f"mqtt://{HOST}:{server.mqtt}", "--data-dir", str(directory / "agent")),
        )
        with start_process(*arguments, log=directory / "agent.log"):
            _wait(server, f"/api/v1/agents/{agent.id}", "agent", "online")
            runs = [[_round_trip(server, agent) for _ in range(count)] for _ in stage.runs()]
    note = f"{count} times `ping`, one after the other, looked for with GET about every millisecond"
    yield Measurement("command, p50", "ms", [median(run) for run in runs], note=note)
    yield Measurement("command, slowest", "ms", [max(run) for run in runs])


def _round_trip(server: Server, agent: Device) -> float:
    """Milliseconds until REST shows the command as completed."""
    begin = time.monotonic()
    command = server.call("POST", "/api/v1/commands", {"agentId": agent.id, "action": "ping"})["command"]
    _wait(server, f"/api/v1/commands/{command['commandId']}", "command", "completed")
    return (time.monotonic() - begin) * 1000


def _wait(server: Server, path: str, noun: str, status: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while server.call("GET", path)[noun]["status"] != status:
        if time.monotonic() > deadline:
            raise Unmeasured(f"{path} did not become {status}")
        time.sleep(_STEP)
