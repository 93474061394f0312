"""REST: how long a call takes on an idle server, and how many samples it takes in from many callers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.load import Load, Sent, busy, send
from tests.benchmarks.report import Effort, Measurement, Target
from tests.benchmarks.senders import Poster, Reader, Sender
from tests.benchmarks.server import Device, Server

LATENCY = Target(10)
LATENCY_UNDER_LOAD = Target(50)
THROUGHPUT = Target(1_000, at_least=True)
CALLS = 500
CONNECTIONS = 64
CALLS_UNDER_LOAD = 200  # by each connection


def measure(directory: Path, effort: Effort) -> Iterator[Measurement]:
    with Server.start(directory / "data") as server:
        devices = server.register(CONNECTIONS)
        posts = _repeat(effort, server, Poster, devices[:1], CALLS)
        gets = _repeat(effort, server, Reader, devices[:1], CALLS)
        many = _repeat(effort, server, Poster, devices, CALLS_UNDER_LOAD)
    one_by_one = f"{effort.amount(CALLS)} calls one after the other on one connection; "
    yield from _latencies("POST metrics", posts, LATENCY, one_by_one + busy(posts))
    yield from _latencies("GET 100 samples", gets, LATENCY, one_by_one + busy(gets))
    name = f"POST metrics, {CONNECTIONS} connections"
    yield Measurement(name, "/s", [sent.rate for sent in many], THROUGHPUT, busy(many))
    yield from _latencies(name, many, LATENCY_UNDER_LOAD)


def _repeat(
    effort: Effort, server: Server, kind: type[Sender], devices: tuple[Device, ...], each: int
) -> list[Sent]:
    load = Load(server.pid, server.http, devices, effort.amount(each))
    return [send(kind, load) for _ in range(effort.runs)]


def _latencies(name: str, sent: list[Sent], target: Target, note: str = "") -> Iterator[Measurement]:
    yield Measurement(f"{name}, p50", "ms", [one.percentile(50) for one in sent], target, note)
    yield Measurement(f"{name}, p99", "ms", [one.percentile(99) for one in sent])
