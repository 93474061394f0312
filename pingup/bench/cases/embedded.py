"""How many samples of 50 agents get stored through the embedded broker."""

from __future__ import annotations

from collections.abc import Iterator

from pingup.bench.generator import Generator
from pingup.bench.load import Kind, Load, Sent
from pingup.bench.report import Measurement, Target
from pingup.bench.server import Server
from pingup.bench.stage import Stage, register
from pingup.bench.stored import check_count

TARGET = Target(8_000, at_least=True)
AGENTS = 50
WINDOW = 20  # what MQTT clients commonly have in flight
EACH = 2_000


def measure(stage: Stage) -> Iterator[Measurement]:
    data_dir = stage.directory / "data"
    each = stage.amount(EACH)
    sent: list[Sent] = []
    costs: list[float] = []
    with Server.start(data_dir) as server:
        register(server, AGENTS)
        for run in stage.runs():
            load = Load(
                kind=Kind.MQTT,
                agents=AGENTS,
                each=each,
                connections=AGENTS,
                first_seq=run * each + 1,
                window=WINDOW,
            )
            with Generator.start(load) as generator:
                used = server.processor_time
                sent.append(generator.send(server.mqtt))
                costs.append((server.processor_time - used) / load.messages * 1e6)
    checked = check_count(data_dir, sum(one.messages for one in sent))
    note = f"{AGENTS} agents, {WINDOW} in flight each, PUBACK after the commit; {busy(sent)}; {checked}"
    yield Measurement("embedded", "/s", [one.rate for one in sent], TARGET, note)
    yield Measurement("embedded: CPU per message", "µs", costs)
    yield Measurement("embedded: PUBACK, p50", "ms", [one.percentile(50) for one in sent])
    yield Measurement("embedded: PUBACK, p99", "ms", [one.percentile(99) for one in sent])


def busy(sent: list[Sent]) -> str:
    """How busy the generator was, and whether it was the limit."""
    own = sum(one.own_cpu for one in sent) / sum(one.seconds for one in sent)
    limit = "; it was the limit" if any(one.was_limit for one in sent) else ""
    return f"the generator used {own:.0%} of a core{limit}"
