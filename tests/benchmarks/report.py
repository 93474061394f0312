"""What was measured, on which machine, and how it is told."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import msgspec

import pingup


class Effort(msgspec.Struct, frozen=True):
    """How often a measurement is repeated, and by what share of the usual amount of work."""

    runs: int = 5
    share: float = 1.0

    def amount(self, usual: int) -> int:
        return max(1, round(usual * self.share))


class Target(msgspec.Struct, frozen=True):
    """A bound that the median should keep: below `value`, or with `at_least` not under it."""

    value: float
    at_least: bool = False

    def is_met(self, measured: float) -> bool:
        return measured >= self.value if self.at_least else measured < self.value


class Measurement(msgspec.Struct, frozen=True):
    """One line of the table: a value for each run, in `unit`. `note` says what else was seen."""

    name: str
    unit: str
    values: Sequence[float]
    target: Target | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def is_met(self) -> bool | None:
        return None if self.target is None else self.target.is_met(self.median)


class Machine(msgspec.Struct, frozen=True, rename="camel"):
    """Where and when it was measured. `load` is the load average over a minute, before the first case."""

    date: str
    system: str
    cpu: str
    cores: int
    load: float
    python: str
    packages: dict[str, str]


def this_machine() -> Machine:
    packages = {name: version(name) for name in ("duckdb", "amqtt", "aiohttp", "msgspec")}
    return Machine(
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        load=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
        packages={"pingup": pingup.__version__, "sqlite": sqlite3.sqlite_version, **packages},
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def header(machine: Machine, effort: Effort) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine.packages.items())
    amount = "" if effort.share == 1 else f", {effort.share:.0%} of the usual amount of work"
    return (
        f"{machine.date}, {machine.system}, {machine.cpu}, {machine.cores} cores, load {machine.load}\n"
        f"Python {machine.python}, {packages}\n"
        f"{effort.runs} runs{amount}"
    )


def table(measurements: Sequence[Measurement]) -> str:
    """A Markdown table, and below it the notes."""
    rows = [("case", "target", "median", "min–max", "met"), *map(_row, measurements)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    notes = [f"- {measured.name}: {measured.note}" for measured in measurements if measured.note]
    return "\n".join([*lines, "", *notes]) if notes else "\n".join(lines)


def _row(measured: Measurement) -> tuple[str, str, str, str, str]:
    target = measured.target
    wanted = (
        "" if target is None else f"{'≥' if target.at_least else '<'} {target.value:,.0f} {measured.unit}"
    )
    spread = f"{_number(min(measured.values))}–{_number(max(measured.values))}"
    met = {True: "yes", False: "no", None: ""}[measured.is_met]
    return measured.name, wanted, f"{_number(measured.median)} {measured.unit}", spread, met


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, target, *numbers, met = row
    cells = [name.ljust(widths[0]), target.rjust(widths[1])]
    cells += [text.rjust(width) for text, width in zip(numbers, widths[2:4], strict=True)]
    return "| " + " | ".join([*cells, met.ljust(widths[4])]) + " |"


def _number(value: float) -> str:
    """Three digits that say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
