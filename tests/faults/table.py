"""What came of all runs, a line for each fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.case import Case
from tests.faults.scene import Outcome
from tests.faults.stage import Mode

_HEADER = (
    "fault",
    "broker",
    "runs",
    "acknowledged",
    "lost",
    "doubled",
    "forged",
    "recovery p50",
    "p99",
    "peak RSS",
)


@dataclass(frozen=True)
class Result:
    """All runs of a case with the broker in one place. Without runs, `skipped` says why."""

    case: Case
    mode: Mode
    outcomes: Sequence[Outcome]
    skipped: str = ""

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.problems]


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent are at most (nearest rank)."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * percent // 100) - 1]


def table(results: Sequence[Result]) -> str:
    """The results in columns; recovery in seconds, memory in MB (10⁶ bytes)."""
    rows = [_HEADER, *map(_row, results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [_line(row, widths) for row in rows]
    notes = [
        f"{result.case.name}, {result.mode}: left out, {result.skipped}"
        for result in results
        if result.skipped
    ]
    notes += [note for result in results if (note := _damage(result))]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:], *notes])


def _row(result: Result) -> tuple[str, ...]:
    outcomes = result.outcomes
    if not outcomes:
        return (result.case.name, result.mode, "0", *["–"] * 7)
    times = [time for outcome in outcomes for time in outcome.recoveries]
    recovery = [f"{percentile(times, percent):.2f} s" if times else "–" for percent in (50, 99)]
    sums = [
        sum(outcome.messages for outcome in outcomes),
        sum(outcome.lost for outcome in outcomes),
        sum(outcome.doubled for outcome in outcomes),
        sum(outcome.forged for outcome in outcomes),
    ]
    peak = max(outcome.peak_rss for outcome in outcomes)
    counts = (str(len(outcomes)), *(f"{number:,}" for number in sums))
    return (result.case.name, result.mode, *counts, *recovery, f"{peak:.0f} MB")


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    texts = [text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True)]
    numbers = [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join([*texts, *numbers])


def _damage(result: Result) -> str:
    taken = sum(outcome.taken_by_damage for outcome in result.outcomes)
    if not taken:
        return ""
    told = f"{taken:,} messages were in the damaged part of the log; sent again, each was stored once"
    return f"{result.case.name}, {result.mode}: {told}"
