"""How fast a server that was away takes what waits for it in the broker."""

from __future__ import annotations

from collections.abc import Iterator

from pingup.bench.behind import Behind, Taken, busy
from pingup.bench.generator import Generator
from pingup.bench.load import Kind, Load
from pingup.bench.report import Measurement, Target
from pingup.bench.stage import Stage

DRAINED = Target(80_000, at_least=True)
CPU = Target(15)
AGENTS = 100
MESSAGES = 1_000_000
WINDOW = 10_000


def measure(stage: Stage) -> Iterator[Measurement]:
    behind = Behind(stage, AGENTS)
    each = stage.amount(MESSAGES // AGENTS)
    taken: list[Taken] = []
    for run in stage.runs():
        load = Load(
            kind=Kind.MQTT,
            agents=AGENTS,
            each=each,
            connections=AGENTS,
            first_seq=run * each + 1,
            window=WINDOW,
            timed=False,
        )
        with Generator.start(load) as generator:
            taken.append(behind.drain(generator))
    note = f"{each * AGENTS:,} messages, from the server's readiness; {busy(taken)}; {behind.checked()}"
    yield Measurement("backlog", "/s", [one.rate for one in taken], DRAINED, note)
    yield Measurement("backlog: CPU per message", "µs", [one.cpu for one in taken], CPU)
    yield Measurement("backlog: largest memory", "MB", [one.peak for one in taken])
