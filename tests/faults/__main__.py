"""`python -m tests.faults [--only FAULT] [--broker WHERE] [--seed N] [--runs N]`: all faults, and one table.

Exit code 1 when an invariant doesn't hold. What a failed run left behind stays and is named.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.faults.case import Case, run
from tests.faults.scene import Outcome
from tests.faults.stage import Mode
from tests.faults.suite import CASES
from tests.faults.table import Result, table


def main() -> int:
    arguments = _parse()
    directory = Path(mkdtemp(prefix="pingup-faults-"))
    started = time.monotonic()
    print(f"seed {arguments.seed}; run i of a fault has seed + i", flush=True)
    results = [_play(case, mode, arguments, directory) for case, mode in _wanted(arguments)]
    print(f"\n{table(results)}\n\n{time.monotonic() - started:.0f} s")
    failures = [(result, outcome) for result in results for outcome in result.failures]
    for result, outcome in failures:
        print(f"\nFAILED {_command(result, outcome)}")
        print("\n".join(f"  {problem}" for problem in outcome.problems))
    if not failures:
        shutil.rmtree(directory)
    return 1 if failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Break Pingup in every way.")
    names = "; ".join(case.name for case in CASES)
    parser.add_argument("--only", action="append", help=f"a fault, by the beginning of its name: {names}")
    parser.add_argument("--broker", choices=[mode.value for mode in Mode], help="only with the broker there")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="repeats a run")
    parser.add_argument("--runs", type=int, help="how often each fault is made")
    parser.add_argument("--share", type=float, default=1.0, help="how much of the usual load is made")
    arguments = parser.parse_args()
    if not list(_wanted(arguments)):
        parser.error(f"there is no such fault; there are: {names}")
    return arguments


def _wanted(arguments: argparse.Namespace) -> Iterator[tuple[Case, Mode]]:
    for case in CASES:
        if arguments.only and not any(_is_meant(case, name) for name in arguments.only):
            continue
        for mode in case.modes:
            if arguments.broker in (None, mode.value):
                yield case, mode


def _is_meant(case: Case, name: str) -> bool:
    """Whether a name stands for this fault: the whole of it, or the beginning of more than one."""
    is_whole = any(other.name == name for other in CASES)
    return case.name == name if is_whole else case.name.startswith(name)


def _play(case: Case, mode: Mode, arguments: argparse.Namespace, directory: Path) -> Result:
    outcomes: list[Outcome] = []
    runs = arguments.runs or case.runs
    for number in range(runs):
        seed = arguments.seed + number
        place = directory / f"{case.slug}-{mode}-{seed}"
        place.mkdir()
        try:
            outcome = asyncio.run(run(case, mode, seed, place, arguments.share))
        except pytest.skip.Exception as reason:
            return Result(case, mode, [], str(reason))
        outcomes.append(outcome)
        if outcome.problems:
            print(
                f"\n{case.name}, {mode}, seed {seed}: {outcome.problems[0]}\n  kept in {place}",
                file=sys.stderr,
            )
        else:
            shutil.rmtree(place)
        print(f"\r\033[K{case.name}, {mode}: {number + 1} of {runs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return Result(case, mode, outcomes)


def _command(result: Result, outcome: Outcome) -> str:
    name = f"--only '{result.case.name}' --broker {result.mode}"
    return f"python -m tests.faults {name} --seed {outcome.seed} --runs 1"


if __name__ == "__main__":
    sys.exit(main())
