"""Sets of numbers kept as ranges, against sets of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pingup.agent.ranges import Ranges

NUMBERS = st.integers(1, 30)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "discard", "pop"]), NUMBERS, NUMBERS))


@given(STEPS)
def test_ranges_hold_what_a_set_would(steps: list[tuple[str, int, int]]) -> None:
    ranges, numbers = Ranges(), set[int]()
    for step, first, last in steps:
        if step == "add":
            ranges.add(first, last)
            numbers |= set(range(first, last + 1))
        elif step == "discard":
            ranges.discard_through(first)
            numbers -= set(range(first + 1))
        elif numbers:
            assert ranges.lowest == min(numbers)
            assert ranges.pop_lowest() == min(numbers)
            numbers.remove(min(numbers))
        assert [number for low, high in ranges for number in range(low, high + 1)] == sorted(numbers)
        assert bool(ranges) == bool(numbers)
        gaps = sum(number - 1 not in numbers for number in numbers)
        assert len(list(ranges)) == gaps
