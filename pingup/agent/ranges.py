"""Sets of message numbers, kept as ranges: small however many numbers they hold, as long as those adjoin."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""The first and the last number of a range, both part of it."""


class Ranges:
    """A set of numbers. Every call costs a search among the ranges, never a step for each number."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._lasts, strict=True)

    @property
    def lowest(self) -> int:
        """The lowest number; there must be one."""
        return self._firsts[0]

    def add(self, first: int, last: int) -> None:
        """Put all numbers of a range in; an empty range changes nothing."""
        if first > last:
            return
        # All ranges that overlap or adjoin the new one become one with it.
        begin = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def pop_lowest(self) -> int:
        """Take the lowest number out; there must be one."""
        lowest = self._firsts[0]
        self.discard_through(lowest)
        return lowest

    def discard_through(self, number: int) -> None:
        """Take out every number up to this one."""
        whole = bisect_right(self._lasts, number)
        del self._firsts[:whole], self._lasts[:whole]
        if self._firsts and self._firsts[0] <= number:
            self._firsts[0] = number + 1
