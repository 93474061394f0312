"""`python -m tests.benchmarks [case …] [--quick] [--json]`: measure, and print one table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from tests.benchmarks.cases import CASES, ONLY_BY_NAME
from tests.benchmarks.report import Effort, Machine, Measurement, header, table, this_machine

QUICK = Effort(runs=2, share=0.2)


def main() -> None:
    arguments = _parse()
    effort = QUICK if arguments.quick else Effort()
    machine = this_machine()
    if not arguments.json:
        print(header(machine, effort), end="\n\n", flush=True)
    measurements = _measure(arguments.cases or [name for name in CASES if name not in ONLY_BY_NAME], effort)
    if arguments.json:
        print(_json(machine, effort, measurements))
    else:
        print(f"{table(measurements)}\n\nload {os.getloadavg()[0]:.2f} at the end")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure Pingup.")
    parser.add_argument("cases", nargs="*", metavar="case", help=_names())
    parser.add_argument(
        "--quick", action="store_true", help="less work and fewer runs: a look, no measurement"
    )
    parser.add_argument("--json", action="store_true", help="every value of every run")
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - CASES.keys()
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return arguments


def _names() -> str:
    usual = ", ".join(name for name in CASES if name not in ONLY_BY_NAME)
    return f"{usual} (all of these when none is named); {', '.join(sorted(ONLY_BY_NAME))}"


def _measure(names: Sequence[str], effort: Effort) -> list[Measurement]:
    measurements: list[Measurement] = []
    for name in names:
        print(f"{name} … (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
        with TemporaryDirectory(prefix="pingup-benchmark-") as directory:
            measurements += CASES[name](Path(directory), effort)
    return measurements


def _json(machine: Machine, effort: Effort, measurements: Sequence[Measurement]) -> str:
    lines = [
        {**msgspec.to_builtins(measured), "median": measured.median, "met": measured.is_met}
        for measured in measurements
    ]
    return msgspec.json.encode({"machine": machine, "effort": effort, "measurements": lines}).decode()


if __name__ == "__main__":
    main()
