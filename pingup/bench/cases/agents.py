"""What a message costs the server, by the number of agents that send them."""

from __future__ import annotations

from collections.abc import Iterator

from pingup.bench.behind import Behind, Taken, busy
from pingup.bench.generator import Generator
from pingup.bench.load import Kind, Load
from pingup.bench.report import Measurement, Target, ratio
from pingup.bench.stage import Stage

GROWTH = Target(1.25)
FLEETS = (10, 1_000, 10_000, 100_000)
MESSAGES = 200_000
CONNECTIONS = 10


def measure(stage: Stage) -> Iterator[Measurement]:
    fleets = {agents: Behind(stage, agents) for agents in map(stage.amount, FLEETS)}
    taken: dict[int, list[Taken]] = {agents: [] for agents in fleets}
    for run in stage.runs():
        for agents, behind in fleets.items():
            stage.tell(f"{agents:,} agents")
            taken[agents].append(_take(behind, agents, stage.amount(MESSAGES), run))
    costs = {agents: [one.cpu for one in found] for agents, found in taken.items()}
    for agents, behind in fleets.items():
        note = f"{busy(taken[agents])}; {behind.checked()}"
        yield Measurement(f"agents, {agents:,}: CPU per message", "µs", costs[agents], note=note)
    fewest, most = min(fleets), max(fleets)
    yield ratio(f"agents, {most:,} / {fewest:,}", costs[most], costs[fewest], GROWTH)


def _take(behind: Behind, agents: int, messages: int, run: int) -> Taken:
    """The first message of each agent is not counted: it is what makes the agent known."""
    each = max(1, messages // agents)
    first_seq = run * (each + 1) + 1
    with (
        Generator.start(_load(agents, 1, first_seq)) as greeting,
        Generator.start(_load(agents, each, first_seq + 1)) as generator,
    ):
        return behind.take(generator, after=greeting)


def _load(agents: int, each: int, first_seq: int) -> Load:
    return Load(
        kind=Kind.MQTT,
        agents=agents,
        each=each,
        connections=min(agents, CONNECTIONS),
        first_seq=first_seq,
        window=1_000,
        timed=False,
    )
