"""`pingup bench`: what Pingup costs on this machine."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import click

from pingup.cli.exits import FAILED, one_line_errors

if TYPE_CHECKING:
    from pingup.bench.machine import Machine
    from pingup.bench.report import Effort
    from pingup.bench.suite import Case, Result

_QUICK_RUNS, _QUICK_SHARE = 1, 0.02


@click.command
@click.argument("cases", nargs=-1, metavar="[CASE]…")
@click.option("--runs", type=click.IntRange(min=1), help="How often each is measured. [5]")
@click.option("--quick", is_flag=True, help="One run and little work: a look, no measurement.")
@click.option("--all", "every", is_flag=True, help="The slow ones too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every value of every run.")
@click.option("--list", "as_list", is_flag=True, help="Say which cases there are.")
@click.pass_obj
def bench(
    more: Mapping[str, Case] | None,
    cases: tuple[str, ...],
    runs: int | None,
    quick: bool,
    every: bool,
    as_json: bool,
    as_list: bool,
) -> None:
    """Measure speed, memory and disk of a server of its own, on fresh data and free ports.

    Without a CASE all are measured that are not slow, which takes about five minutes.
    """
    with one_line_errors():
        from pingup.bench.machine import this_machine  # late: the server's packages
        from pingup.bench.report import Effort
        from pingup.bench.suite import CASES, measure, usual

        known = more or CASES
        if as_list:
            _list(known)
            return
        unknown = [name for name in cases if name not in known]
        if unknown:
            raise click.UsageError(f"no such case: {', '.join(unknown)}; there are {', '.join(known)}")
        wanted = {name: known[name] for name in cases or usual(known, slow=every)}
        signal.signal(signal.SIGTERM, _end)
        effort = Effort(runs or (_QUICK_RUNS if quick else 5), _QUICK_SHARE if quick else 1.0)
        machine = this_machine()
        results = list(measure(wanted, effort, _tell))
        if as_json:
            click.echo(_as_json(machine, effort, results))
        elif any(result.measurements for result in results):
            click.echo(_as_text(machine, effort, results))
        _leave(results)


def _end(number: int, _: FrameType | None) -> None:
    """End as at any exit, so that no server or broker stays behind."""
    sys.exit(128 + number)


def _list(known: Mapping[str, Case]) -> None:
    for name, case in known.items():
        click.echo(f"{name:10} {case.line}{' (slow)' if case.is_slow or case.is_endless else ''}")


def _tell(progress: str) -> None:
    if sys.stderr.isatty():
        click.echo(progress, err=True)


def _as_text(machine: Machine, effort: Effort, results: Sequence[Result]) -> str:
    from pingup.bench.machine import header, load_average
    from pingup.bench.report import table

    measurements = [measurement for result in results for measurement in result.measurements]
    return f"{header(machine, effort)}\n\n{table(measurements)}\n\nload {load_average()} at the end"


def _as_json(machine: Machine, effort: Effort, results: Sequence[Result]) -> str:
    import msgspec

    cases = [
        {
            "case": result.case,
            "skipped": result.skipped,
            "failed": result.failed,
            "measurements": [
                {**msgspec.to_builtins(one), "median": one.median, "met": one.is_met}
                for one in result.measurements
            ],
        }
        for result in results
    ]
    return msgspec.json.encode({"machine": machine, "effort": effort, "cases": cases}).decode()


def _leave(results: Sequence[Result]) -> None:
    """Say what is missing, and end; a failure is one even if everything else could be measured."""
    for result in results:
        if result.skipped is not None:
            click.echo(f"pingup: {result.case} is skipped: {result.skipped}", err=True)
        if result.failed is not None:
            click.echo(f"pingup: {result.case} has failed: {result.failed}", err=True)
    is_measured = any(result.measurements for result in results)
    if not is_measured or any(result.failed is not None for result in results):
        sys.exit(FAILED)
