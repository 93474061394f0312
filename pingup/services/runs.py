"""Sets of numbers as runs: many in little memory, as long as most of them follow each other."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

MAX_RUNS = 4096
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Interval(NamedTuple):
    """The numbers from `low` to `high`, both included, and a moment for either end in microseconds (1970)."""

    low: int
    high: int
    low_at: int
    high_at: int


class Runs:
    """A set of numbers, of which the highest 4,096 runs are known at most.

    `floor` is the highest number that was forgotten for the sake of the bound: nothing is known up to there.
    """

    __slots__ = ("_ends", "_highs", "_lows", "_max_runs", "_starts", "floor")

    def __init__(self, max_runs: int = MAX_RUNS) -> None:
        # Four columns: disjoint runs that do not touch, in their order.
        self._lows = array("q")
        self._highs = array("q")
        self._starts = array("q")
        self._ends = array("q")
        self._max_runs = max_runs
        self.floor = 0

    def __len__(self) -> int:
        return len(self._lows)

    def __iter__(self) -> Iterator[Interval]:
        return map(Interval, self._lows, self._highs, self._starts, self._ends)

    @property
    def highest(self) -> int:
        """The highest number, 0 when there is none."""
        return self._highs[-1] if self._highs else 0

    def reach(self, number: int) -> int:
        """The end of the run that `number` is in; the number before it when it is in none."""
        position = bisect_right(self._lows, number) - 1
        return max(number - 1, self._highs[position]) if position >= 0 else number - 1

    def within(self, low: int, high: int) -> Iterator[Interval]:
        """What of the set lies from `low` to `high`, both included; moments are of the whole runs."""
        for position in range(bisect_left(self._highs, low), bisect_right(self._lows, high)):
            yield Interval(
                max(low, self._lows[position]),
                min(high, self._highs[position]),
                self._starts[position],
                self._ends[position],
            )

    def extend(self, low: int, high: int, high_at: int) -> bool:
        """Put numbers in that follow the highest one; False, and nothing is done, if they do not."""
        if not self._highs or low - 1 != self._highs[-1]:
            return False
        self._highs[-1], self._ends[-1] = high, high_at
        return True

    def add(self, interval: Interval) -> None:
        """Put numbers in, joining every run that they touch."""
        if self.extend(interval.low, interval.high, interval.high_at):
            return
        # The runs from `begin` up to but without `end` are those that touch it.
        begin = bisect_left(self._highs, interval.low - 1)
        end = bisect_right(self._lows, interval.high + 1)
        low, high, low_at, high_at = interval
        if begin < end:
            if self._lows[begin] <= low:
                low, low_at = self._lows[begin], self._starts[begin]
            if self._highs[end - 1] >= high:
                high, high_at = self._highs[end - 1], self._ends[end - 1]
        self._put(begin, end, Interval(low, high, low_at, high_at))

    def forget_beyond(self) -> None:
        """Keep to the bound: forget the lowest runs."""
        surplus = len(self) - self._max_runs
        if surplus > 0:
            self.floor = max(self.floor, self._highs[surplus - 1])
            for column in (self._lows, self._highs, self._starts, self._ends):
                del column[:surplus]

    def _put(self, begin: int, end: int, interval: Interval) -> None:
        for column, value in zip((self._lows, self._highs, self._starts, self._ends), interval, strict=True):
            if end - begin == 1:
                column[begin] = value
            else:
                column[begin:end] = array("q", (value,))


def micros(moment: datetime) -> int:
    """A moment in microseconds since 1970, as runs hold it."""
    return (moment - EPOCH) // _MICROSECOND


def moment_of(micros: int) -> datetime:
    """A moment as people see it, in UTC."""
    return EPOCH + micros * _MICROSECOND
