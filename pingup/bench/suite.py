"""The cases by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from pingup.bench.cases import (
    agents,
    backlog,
    command,
    discovery,
    embedded,
    history,
    ingest,
    journal,
    live,
    memory,
    rest,
    size,
    soak,
    start,
)
from pingup.bench.machine import load_average
from pingup.bench.mosquitto import Missing, find_program
from pingup.bench.report import Effort, Measurement
from pingup.bench.server import Unmeasured
from pingup.bench.stage import Measure, Stage


class Case(msgspec.Struct, frozen=True):
    """Something to measure. A slow one is measured only when it is asked for, an endless one by its name."""

    measure: Measure
    line: str
    needs: tuple[str, ...] = ()
    """Programs without which it can't begin."""
    is_slow: bool = False
    is_endless: bool = False


_BROKER = ("mosquitto",)
_CLIENTS = ("mosquitto", "mosquitto_sub")

CASES = {
    "ingest": Case(ingest.measure, "samples through Mosquitto until they are stored", _CLIENTS),
    "embedded": Case(embedded.measure, "samples through the embedded broker, 50 agents"),
    "live": Case(live.measure, "from sending a sample to seeing it on its live topic"),
    "rest": Case(rest.measure, "POST and GET, one after the other and from many connections"),
    "journal": Case(journal.measure, "small work with `storage.journal` and without it"),
    "command": Case(command.measure, "a command to an agent and back"),
    "discovery": Case(discovery.measure, "30 days of scans of 50 hosts"),
    "start": Case(start.measure, "until the server is ready"),
    "memory": Case(memory.measure, "idle, and at 1,000 samples a second"),
    "backlog": Case(backlog.measure, "1,000,000 messages that wait in Mosquitto", _BROKER, is_slow=True),
    "history": Case(history.measure, "queries over 100 agents and 30 days, 25.9 M samples", is_slow=True),
    "agents": Case(agents.measure, "the cost of a message, of 10 to 100,000 agents", _BROKER, is_slow=True),
    "size": Case(
        size.measure, "the cost of a message, with up to 100 M samples stored", _BROKER, is_slow=True
    ),
    "soak": Case(
        soak.measure, "10,000 agents at 10 s for 10 minutes; only by its name", _BROKER, is_endless=True
    ),
}


class Result(msgspec.Struct, frozen=True):
    """What came of a case: its lines, and why there are no more of them."""

    case: str
    measurements: Sequence[Measurement]
    skipped: str | None = None
    failed: str | None = None


def usual(cases: Mapping[str, Case], *, slow: bool) -> list[str]:
    """The names of those that are measured when none is named; with the slow ones if wanted."""
    return [name for name, case in cases.items() if not case.is_endless and (slow or not case.is_slow)]


def measure(cases: Mapping[str, Case], effort: Effort, tell: Callable[[str], None]) -> Iterator[Result]:
    """Measure all these one after the other; `tell` is told how far it is."""
    for name, case in cases.items():
        yield _measure(name, case, effort, tell)


def _measure(name: str, case: Case, effort: Effort, tell: Callable[[str], None]) -> Result:
    def tell_of(what: str) -> None:
        tell(f"{name}: {what} (load {load_average()})")

    found: list[Measurement] = []
    try:
        for program in case.needs:
            find_program(program)
        with TemporaryDirectory(prefix="pingup-bench-") as directory:
            for measurement in case.measure(Stage(Path(directory), effort, tell_of)):
                found.append(measurement)  # noqa: PERF402 - those before a failure count
    except Missing as problem:
        return Result(name, found, skipped=str(problem))
    except Unmeasured as problem:
        return Result(name, found, failed=str(problem))
    return Result(name, found)
