"""Whether memory grows over minutes of a large fleet's load, past DuckDB's checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pingup.bench.generator import Generator
from pingup.bench.load import Kind, Load
from pingup.bench.mosquitto import running_mosquitto
from pingup.bench.report import Measurement, Target
from pingup.bench.server import Server, at_broker
from pingup.bench.stage import Stage, register
from pingup.bench.stored import LAST_AGENT, check_count, publish_last, wait_for_last

GROWTH = Target(5)  # MB; less than that is no growth
AGENTS = 10_000
INTERVAL = 10  # seconds between an agent's samples
MINUTES = 10
CONNECTIONS = 50
_SETTLED = 0.2  # of the time: then everything was touched once


def measure(stage: Stage) -> Iterator[Measurement]:
    data_dir = stage.directory / "data"
    agents = stage.amount(AGENTS)
    each = stage.amount(MINUTES * 60 // INTERVAL)
    load = Load(
        kind=Kind.MQTT,
        agents=agents,
        each=each,
        connections=min(CONNECTIONS, agents),
        window=agents,
        rate=agents / INTERVAL,
        timed=False,
        spacing=INTERVAL,
    )
    with (
        Generator.start(load) as generator,
        running_mosquitto(stage.directory / "mosquitto") as broker,
        Server.start(data_dir, *at_broker(broker.port)) as server,
    ):
        register(server, agents)
        register(server, 1, LAST_AGENT)
        server.wait_for_broker()
        seconds = each * INTERVAL
        generator.begin(broker.port)
        stage.tell(f"{seconds:,} s at {load.rate:,.0f} messages a second")
        time.sleep(seconds * _SETTLED)
        before, used = server.rss, server.processor_time
        sent = generator.end()
        after, peak = server.rss, server.peak_rss
        cost = (server.processor_time - used) / (sent.messages * (1 - _SETTLED)) * 1e6
        publish_last(broker.port)
        wait_for_last(server, data_dir, sent.began)
    note = (
        f"{agents:,} agents, {load.rate:,.0f}/s for {seconds:,} s; {check_count(data_dir, sent.messages + 1)}"
    )
    yield Measurement(f"soak: memory after {seconds * _SETTLED:,.0f} s", "MB", [before], note=note)
    yield Measurement("soak: memory at the end", "MB", [after])
    yield Measurement("soak: growth", "MB", [after - before], GROWTH)
    yield Measurement("soak: largest memory", "MB", [peak])
    yield Measurement("soak: CPU per message", "µs", [cost])
