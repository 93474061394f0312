"""What was measured, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec


class Effort(msgspec.Struct, frozen=True):
    """How often a measurement is repeated, and by what share of the usual amount of work."""

    runs: int = 5
    share: float = 1.0

    def amount(self, usual: int) -> int:
        """So much of the usual amount, at least 1."""
        return max(1, round(usual * self.share))


class Target(msgspec.Struct, frozen=True):
    """A bound that the median should keep: not above `value`, or with `at_least` not below it."""

    value: float
    at_least: bool = False

    def is_met(self, measured: float) -> bool:
        return measured >= self.value if self.at_least else measured <= self.value


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


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], target: Target | None) -> Measurement:
    """Ours divided by theirs, each run by the run of the other that came right after it."""
    return Measurement(name, "×", [one / other for one, other in zip(ours, theirs, strict=True)], target)


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
        "" if target is None else f"{'≥' if target.at_least else '≤'} {_bound(target.value)} {measured.unit}"
    )
    spread = f"{_number(min(measured.values))}–{_number(max(measured.values))}"
    met = {True: "yes", False: "no", None: ""}[measured.is_met]
    return measured.name, wanted, f"{_number(measured.median)} {measured.unit}", spread, met


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, target, *numbers, met = row
    cells = [name.ljust(widths[0]), target.rjust(widths[1])]
    cells += [text.rjust(width) for text, width in zip(numbers, widths[2:4], strict=True)]
    return "| " + " | ".join([*cells, met.ljust(widths[4])]) + " |"


def _bound(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _number(value: float) -> str:
    """Three digits that say something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
