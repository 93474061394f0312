"""How long after it was sent a sample can be seen on its live topic, which is after it was stored."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pingup.bench.generator import Generator
from pingup.bench.load import Kind, Load, percentile
from pingup.bench.mosquitto import running_mosquitto
from pingup.bench.report import Measurement, Target
from pingup.bench.server import Server, Unmeasured, at_broker
from pingup.bench.stage import Stage, register
from pingup.bench.watcher import Watcher
from pingup.topics import ROOT

P50, P99 = Target(5), Target(25)
AGENTS = 50
RATE = 1_000
SECONDS = 5
_FILTER = f"{ROOT}/live/+/metrics"


def measure(stage: Stage) -> Iterator[Measurement]:
    yield from _embedded(stage)
    yield from _mosquitto(stage)


def load_of(stage: Stage, run: int) -> Load:
    each = stage.amount(SECONDS * RATE // AGENTS)
    return Load(
        kind=Kind.MQTT,
        agents=AGENTS,
        each=each,
        connections=AGENTS,
        first_seq=run * each + 1,
        window=1_000,
        rate=RATE,
    )


def _embedded(stage: Stage) -> Iterator[Measurement]:
    with Server.start(stage.directory / "embedded") as server:
        register(server, AGENTS)
        runs = [watch(server, server.mqtt, load_of(stage, run)) for run in stage.runs()]
    return rows("live, embedded", runs)


def _mosquitto(stage: Stage) -> Iterator[Measurement]:
    directory = stage.directory / "mosquitto"
    with (
        running_mosquitto(directory) as broker,
        Server.start(stage.directory / "behind", *at_broker(broker.port)) as server,
    ):
        register(server, AGENTS)
        server.wait_for_broker()
        runs = [watch(server, broker.port, load_of(stage, run)) for run in stage.runs()]
    return rows("live, Mosquitto", runs)


class Seen(msgspec.Struct, frozen=True):
    """Seconds from sending to seeing, in order of size, and the server's µs of a core for a message."""

    delays: list[float]
    cpu: float


def watch(server: Server, port: int, load: Load) -> Seen:
    with (
        Generator.start(load) as generator,
        Watcher.open(port, _FILTER, "operator", server.admin_token) as watcher,
    ):
        used = server.processor_time
        sent = generator.send(port)
        watcher.wait_for(load.messages)
        used = server.processor_time - used
    seen = [
        at - sent.departures[moment] for moment, at in watcher.arrivals.items() if moment in sent.departures
    ]
    if not seen:
        raise Unmeasured("nothing was to be seen on the live topics")
    return Seen(sorted(seen), used / load.messages * 1e6)


def rows(name: str, runs: list[Seen]) -> Iterator[Measurement]:
    seen = sum(len(run.delays) for run in runs)
    note = f"{RATE:,}/s from {AGENTS} agents; {seen:,} samples were seen"
    yield Measurement(f"{name}, p50", "ms", [percentile(run.delays, 50) for run in runs], P50, note)
    yield Measurement(f"{name}, p99", "ms", [percentile(run.delays, 99) for run in runs], P99)
    yield Measurement(f"{name}: CPU per message", "µs", [run.cpu for run in runs])
