"""What a message costs the server, by the number of samples that it has stored already."""

from __future__ import annotations

from collections.abc import Iterator

from pingup.bench.behind import Behind, Taken, busy
from pingup.bench.filling import fill_with_samples
from pingup.bench.generator import Generator
from pingup.bench.load import Kind, Load
from pingup.bench.report import Measurement, ratio
from pingup.bench.stage import Stage

ROWS = (0, 25_000_000, 100_000_000)
AGENTS = 100
MESSAGES = 100_000


def measure(stage: Stage) -> Iterator[Measurement]:
    databases = {rows: _filled(stage, rows) for rows in ROWS}
    taken: dict[int, list[Taken]] = {rows: [] for rows in databases}
    each = stage.amount(MESSAGES // AGENTS)
    for run in stage.runs():
        load = Load(
            kind=Kind.MQTT,
            agents=AGENTS,
            each=each,
            connections=AGENTS,
            first_seq=run * each + 1,
            window=1_000,
            timed=False,
        )
        with Generator.start(load) as generator:
            for rows, behind in databases.items():
                taken[rows].append(behind.take(generator))
    costs = {rows: [one.cpu for one in found] for rows, found in taken.items()}
    for rows, behind in databases.items():
        note = f"{busy(taken[rows])}; {behind.checked()}"
        yield Measurement(f"size, {rows / 1e6:.0f} M rows: CPU per message", "µs", costs[rows], note=note)
    yield ratio(f"size, {ROWS[-1] / 1e6:.0f} M rows / none", costs[ROWS[-1]], costs[0], None)


def _filled(stage: Stage, rows: int) -> Behind:
    behind = Behind(stage, AGENTS)
    if rows:
        stage.tell(f"{rows:,} rows")
        behind.samples += fill_with_samples(behind.data_dir, AGENTS, stage.amount(rows // AGENTS), stage.tell)
    return behind
