"""REST: how long a call takes on an idle server, and how many samples it takes in from many callers."""

from __future__ import annotations

from collections.abc import Iterator

from pingup.bench.cases.embedded import busy
from pingup.bench.generator import send_once
from pingup.bench.load import Kind, Load, Sent
from pingup.bench.report import Measurement, Target
from pingup.bench.server import Server
from pingup.bench.stage import Stage, register
from pingup.bench.stored import check_count

LATENCY = Target(10)
POSTED = Target(8_000, at_least=True)
LINES = Target(80_000, at_least=True)
NEWEST = "/api/v1/metrics/{agent}?limit=100"
CALLS = 500
CONNECTIONS = 64
CALLS_EACH = 300  # by each connection
BODIES = 20
LINES_EACH = 1_000  # in a body
CALLERS = 4  # with bodies of many lines


def measure(stage: Stage) -> Iterator[Measurement]:
    data_dir = stage.directory / "data"
    alone, newest, many, lines = _loads(stage)
    posts: list[Sent] = []
    gets: list[Sent] = []
    together: list[Sent] = []
    by_the_line: list[Sent] = []
    costs: list[float] = []
    with Server.start(data_dir) as server:
        register(server, CONNECTIONS)
        for _ in stage.runs():
            posts.append(send_once(alone, server.http))
            gets.append(send_once(newest, server.http))
            used = server.processor_time
            together.append(send_once(many, server.http))
            costs.append((server.processor_time - used) / many.messages * 1e6)
            by_the_line.append(send_once(lines, server.http))
    taken = [sent.messages for sent in (*posts, *together)] + [
        sent.messages * LINES_EACH for sent in by_the_line
    ]
    checked = check_count(data_dir, sum(taken))
    yield from latencies("rest: POST, alone", posts, f"{alone.each} calls one after the other")
    yield from latencies("rest: GET 100 newest, alone", gets, f"{newest.each} calls one after the other")
    name = f"rest: POST, {CONNECTIONS} connections"
    yield Measurement(name, "/s", [sent.rate for sent in together], POSTED, f"{busy(together)}; {checked}")
    yield from latencies(name, together)
    yield Measurement(f"{name}: CPU per call", "µs", costs)
    rates = [sent.rate * LINES_EACH for sent in by_the_line]
    note = f"bodies of {LINES_EACH:,} samples on {CALLERS} connections; {busy(by_the_line)}"
    yield Measurement("rest: NDJSON, samples", "/s", rates, LINES, note)


def many_posts(stage: Stage) -> Load:
    """POST on many connections, each one call after the other."""
    return Load(kind=Kind.POST, agents=CONNECTIONS, each=stage.amount(CALLS_EACH), connections=CONNECTIONS)


def _loads(stage: Stage) -> tuple[Load, Load, Load, Load]:
    """Of one caller, POST and GET; of many; and of bodies with many lines."""
    calls = stage.amount(CALLS)
    return (
        Load(kind=Kind.POST, agents=1, each=calls, connections=1),
        Load(kind=Kind.GET, agents=1, each=calls, connections=1, path=NEWEST),
        many_posts(stage),
        Load(
            kind=Kind.NDJSON,
            agents=CALLERS,
            each=stage.amount(BODIES),
            connections=CALLERS,
            samples=LINES_EACH,
        ),
    )


def latencies(name: str, sent: list[Sent], note: str = "") -> Iterator[Measurement]:
    yield Measurement(f"{name}, p50", "ms", [one.percentile(50) for one in sent], LATENCY, note)
    yield Measurement(f"{name}, p99", "ms", [one.percentile(99) for one in sent])
