"""Reading back: 100 agents, 30 days, a sample every 10 s."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pingup.bench.cases.start import time_to_ready
from pingup.bench.filling import EVERY, fill_with_samples, sort_cold
from pingup.bench.generator import Generator, send_once
from pingup.bench.load import Kind, Load, Sent
from pingup.bench.messages import device
from pingup.bench.mosquitto import running_mosquitto
from pingup.bench.report import Measurement, Target
from pingup.bench.server import Server, Unmeasured, at_broker
from pingup.bench.stage import Stage, register
from pingup.data_dir import TELEMETRY_FILE

START = Target(500)
NEWEST = Target(10)
NEWEST_UNDER_LOAD = Target(500, at_least=True)
HOURLY_AS_CAME, HOURLY_SORTED = Target(200), Target(60)
RAW = Target(60)
DISK = Target(12)
AGENTS = 100
DAYS = 30
A_DAY = 86_400 // EVERY.seconds
NEWEST_PATH = "/api/v1/metrics/{agent}?limit=100"
CALLS = 2  # by each agent
READERS = 32  # connections
CALLS_TOGETHER = 20  # by each agent
INCOMING = 5_000  # messages a second
_SENDERS = 50
_FIRST_SENDER = 1_000


def measure(stage: Stage) -> Iterator[Measurement]:
    data_dir = stage.directory / "data"
    with Server.start(data_dir) as server:
        register(server, AGENTS)
        register(server, _SENDERS, _FIRST_SENDER)
    rows = fill_with_samples(data_dir, AGENTS, stage.amount(DAYS * A_DAY), stage.tell)
    yield _disk("history, as it came", data_dir, rows)
    starts = [time_to_ready(data_dir) for _ in stage.runs()]
    yield Measurement("history: start", "ms", starts, START, f"with {rows:,} rows on disk")
    with Server.start(data_dir) as server:
        yield from _queries(stage, server, "history, as it came", HOURLY_AS_CAME)
    stage.tell("sorting")
    begin = time.monotonic()
    sort_cold(data_dir)
    rates = [rows / (time.monotonic() - begin)]
    yield Measurement(
        "history: sorting", "/s", rates, note="samples by agent and time; the server does it by and by"
    )
    yield _disk("history, sorted", data_dir, rows)
    with Server.start(data_dir) as server:
        yield from _queries(stage, server, "history, sorted", HOURLY_SORTED)
    yield from _under_load(stage, data_dir)


def _queries(stage: Stage, server: Server, name: str, hourly: Target) -> Iterator[Measurement]:
    newest = [send_once(_reader(stage, 1, CALLS), server.http) for _ in stage.runs()]
    values = [sent.percentile(50) for sent in newest]
    yield Measurement(f"{name}: 100 newest, p50", "ms", values, NEWEST, "one call after the other")
    hours = stage.amount(DAYS * 24)
    asked = "?from=-30d&step=1h&agg=avg,min,max,p95&limit=1000"
    times = [_ask(server, number, asked, hours // 2) for number in stage.runs()]
    note = "avg, min, max and p95 of cpu, ram, disk and latency of one agent, another one each time"
    yield Measurement(f"{name}: 30 days by the hour", "ms", times, hourly, note)
    wanted = min(A_DAY, stage.amount(DAYS * A_DAY)) - 100
    times = [_ask(server, number, f"?from=-24h&limit={A_DAY}", wanted) for number in stage.runs()]
    yield Measurement(f"{name}: 24 h raw", "ms", times, RAW, f"{A_DAY:,} samples as JSON")


def _under_load(stage: Stage, data_dir: Path) -> Iterator[Measurement]:
    """100 newest for many readers, while samples come in through Mosquitto."""
    sent: list[Sent] = []
    loaded: list[Sent] = []
    with _receiving(stage, data_dir) as (server, port):
        for run in stage.runs():
            with Generator.start(_incoming(stage, run)) as generator:
                generator.begin(port)
                sent.append(send_once(_reader(stage, READERS, CALLS_TOGETHER), server.http))
                loaded.append(generator.end())
    slowest = min(one.rate for one in loaded)
    note = f"{READERS} connections, while {slowest:,.0f} messages/s or more come in through Mosquitto"
    rates = [one.rate for one in sent]
    yield Measurement("history: 100 newest, under load", "/s", rates, NEWEST_UNDER_LOAD, note)
    yield Measurement("history: 100 newest, under load, p50", "ms", [one.percentile(50) for one in sent])


@contextmanager
def _receiving(stage: Stage, data_dir: Path) -> Iterator[tuple[Server, int]]:
    with (
        running_mosquitto(stage.directory / "mosquitto") as broker,
        Server.start(data_dir, *at_broker(broker.port)) as server,
    ):
        server.wait_for_broker()
        yield server, broker.port


def _reader(stage: Stage, connections: int, calls: int) -> Load:
    """Each agent asks for its 100 newest samples, so many times."""
    return Load(
        kind=Kind.GET, agents=AGENTS, each=stage.amount(calls), connections=connections, path=NEWEST_PATH
    )


def _incoming(stage: Stage, run: int) -> Load:
    seconds = 8
    each = stage.amount(INCOMING * seconds // _SENDERS)
    return Load(
        kind=Kind.MQTT,
        agents=_SENDERS,
        each=each,
        connections=_SENDERS,
        first_agent=_FIRST_SENDER,
        first_seq=run * each + 1,
        window=INCOMING,
        rate=INCOMING,
        timed=False,
    )


def _ask(server: Server, number: int, asked: str, at_least: int) -> float:
    """Milliseconds for one call; the answer must hold so many entries."""
    path = f"/api/v1/metrics/{device(number % AGENTS).id}{asked}"
    begin = time.monotonic()
    status, text = server.ask("GET", path)
    taken = (time.monotonic() - begin) * 1000
    if status != 200:
        raise Unmeasured(f"GET {path} was answered with {status}: {text[:500].decode()}")
    found = len(msgspec.json.decode(text)["metrics"])
    if found < at_least:
        raise Unmeasured(f"GET {path} was answered with {found:,} entries, {at_least:,} or more are there")
    return taken


def _disk(name: str, data_dir: Path, rows: int) -> Measurement:
    size = (data_dir / TELEMETRY_FILE).stat().st_size
    return Measurement(f"{name}: disk per sample", "bytes", [size / rows], DISK, f"{size / 1e6:,.0f} MB")
