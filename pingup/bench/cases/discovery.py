"""How long the specification's discovery query takes: the scans of 30 days."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from pingup import signing
from pingup.bench.lines import run
from pingup.bench.load import Kind, Load
from pingup.bench.messages import device
from pingup.bench.report import Measurement, Target
from pingup.bench.scripts import Calling, post
from pingup.bench.server import Server, Unmeasured
from pingup.bench.stage import Stage, register
from pingup.clock import SystemClock, rfc3339

TARGET = Target(100)
SCANS = 30 * 24
HOSTS = 50


def measure(stage: Stage) -> Iterator[Measurement]:
    count = stage.amount(SCANS)
    with Server.start(stage.directory / "data") as server:
        register(server, 1)
        _send(server, count)
        values = [_ask(server, count) for _ in stage.runs()]
        note = f"answered in full as JSON; the server's memory peaks at {server.peak_rss:,.0f} MB"
    yield Measurement(f"discovery, {count} scans of {HOSTS} hosts", "ms", values, TARGET, note)


def _send(server: Server, count: int) -> None:
    """Hourly scans, the last one now."""
    who = device(0)
    now = SystemClock().now()
    hosts = [
        {"ip": f"192.168.1.{number}", "latency": number, "ports": [22, 80, 443]} for number in range(HOSTS)
    ]
    calls = (
        (post("/api/v1/discovery", who.token, _scan(now - timedelta(hours=hours), hosts)), 0)
        for hours in reversed(range(count))
    )
    load = Load(kind=Kind.POST, agents=1, each=count, connections=1)
    run([Calling(calls, b"201")], load, server.http)


def _scan(moment: datetime, hosts: list[dict[str, object]]) -> bytes:
    who = device(0)
    found = {"hosts": hosts, "duration": 15_230}
    body = {"agentId": who.id, "timestamp": rfc3339(moment), "discovery": found}
    return signing.sign(msgspec.json.encode(body), who.secret)


def _ask(server: Server, count: int) -> float:
    path = f"/api/v1/discovery/{device(0).id}?from=-31d&limit=1000"
    begin = time.monotonic()
    status, text = server.ask("GET", path)
    taken = (time.monotonic() - begin) * 1000
    found = msgspec.json.decode(text)["discovery"] if status == 200 else []
    if [len(scan["hosts"]) for scan in found] != [HOSTS] * count:
        raise Unmeasured(f"the answer ({status}) does not hold the scans that were stored")
    return taken
