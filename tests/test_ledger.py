"""The ledger: what is settled is stored, refused or given up, and every gap is told with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingup.model import Fate, Run
from pingup.services.gaps import Gap, State, completeness, state_of
from pingup.services.ledger import MAX_STREAMS, Ledger, Stream
from pingup.services.runs import MAX_RUNS, Interval, Runs

START = datetime(2026, 2, 25, 10, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def run(
    low: int,
    high: int | None = None,
    *,
    fate: Fate = Fate.STORED,
    first: int = 1,
    stream: str = "s",
    received: float = 0,
) -> Run:
    """Messages sent a second apart, number 1 at second 1."""
    high = low if high is None else high
    return Run("A", stream, fate, low, high, first, at(low), at(high), at(received))


def stream_of(*runs: Run) -> Stream:
    ledger = Ledger()
    for one in runs:
        ledger.settle(one)
    (stream,) = ledger.streams("A")
    return stream


# --- runs ------------------------------------------------------------------------------------------


def numbers(intervals: Iterable[Interval]) -> set[int]:
    return {number for interval in intervals for number in range(interval.low, interval.high + 1)}


intervals = st.builds(
    lambda low, more: Interval(low, low + more, 10 * low, 10 * (low + more)),
    st.integers(1, 40),
    st.sampled_from([0, 0, 0, 1, 5]),
)


@given(st.lists(intervals))
def test_runs_are_the_set_of_the_numbers_that_were_put_in(added: list[Interval]) -> None:
    runs, known = Runs(), set[int]()
    for interval in added:
        runs.add(interval)
        known |= numbers([interval])
        found = list(runs)
        assert numbers(found) == known
        assert all(one.high + 1 < other.low for one, other in pairwise(found))
        # Every end keeps the moment that it came with.
        assert all((one.low_at, one.high_at) == (10 * one.low, 10 * one.high) for one in found)
        assert runs.highest == max(known)
        for number in range(1, 48):
            following = next(free for free in range(number, 99) if free not in known)
            assert runs.reach(number) == following - 1
        assert numbers(runs.within(10, 20)) == known & set(range(10, 21))


@given(st.lists(intervals), st.integers(1, 4))
def test_runs_beyond_the_bound_are_forgotten_from_below(added: list[Interval], bound: int) -> None:
    runs, everything = Runs(bound), set[int]()
    for interval in added:
        runs.add(interval)
        runs.forget_beyond()
        everything |= numbers([interval])
        assert len(runs) <= bound
        assert numbers(runs) <= everything
        assert {number for number in everything if number > runs.floor} <= numbers(runs)


def test_runs_go_up_to_the_largest_number_that_a_message_can_have() -> None:
    runs, largest = Runs(), 2**63 - 1
    runs.add(Interval(largest - 1, largest - 1, 0, 0))
    runs.add(Interval(largest, largest, 0, 0))
    assert list(runs) == [Interval(largest - 1, largest, 0, 0)]
    assert runs.reach(largest) == largest


# --- what is settled -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "settled"),
    [
        ([run(1)], 1),
        ([run(2)], 0),
        ([run(2), run(1)], 2),
        ([run(1, 3), run(5)], 3),
        ([run(1), run(2, fate=Fate.REFUSED), run(3)], 3),
        ([run(5, first=5)], 5),
        ([run(1), run(6, first=4)], 3),
        ([run(1, 3), run(2, first=2)], 3),
        ([run(3, first=9)], 8),
    ],
)
def test_settled_is_the_number_up_to_which_all_is_stored_refused_or_given_up(
    runs: list[Run], settled: int
) -> None:
    assert stream_of(*runs).settled == settled


class Model:
    """The same by plain sets."""

    def __init__(self) -> None:
        self.done: set[int] = set()
        self.first = 1

    def settle(self, one: Run) -> None:
        self.done.update(range(one.low, one.high + 1))
        self.first = max(self.first, one.first)

    @property
    def settled(self) -> int:
        return next(number - 1 for number in range(self.first, 999) if number not in self.done)


messages = st.builds(
    run, st.integers(1, 30), fate=st.sampled_from(list(Fate)), first=st.sampled_from([1, 1, 1, 3, 8, 20])
)


@given(st.lists(messages, min_size=1, max_size=60))
def test_settled_never_goes_back_and_is_right_in_whatever_order_messages_come(messages: list[Run]) -> None:
    ledger, model, before = Ledger(), Model(), 0
    for message in messages:
        ledger.settle(message)
        model.settle(message)
        (stream,) = ledger.streams("A")
        assert stream.settled == model.settled >= before
        before = stream.settled
    again = Ledger()
    again.load(messages)
    (stream,) = again.streams("A")
    assert (stream.settled, stream.first, stream.highest) == (
        model.settled,
        model.first,
        max(*model.done, model.first - 1),
    )


@given(st.permutations(range(1, 25)), st.data())
def test_the_top_is_reached_once_everything_came(order: list[int], data: st.DataObject) -> None:
    ledger = Ledger()
    for seq in order:
        for _ in range(data.draw(st.integers(1, 2))):
            ledger.settle(run(seq, fate=data.draw(st.sampled_from(list(Fate)))))
    assert ledger.streams("A")[0].settled == 24


def test_a_stream_with_more_gaps_than_are_kept_still_reaches_its_top_when_they_are_sent_again() -> None:
    top = 2 * MAX_RUNS + 500
    ledger = Ledger()
    for seq in range(2, top, 2):
        ledger.settle(run(seq))
    (stream,) = ledger.streams("A")
    assert (stream.settled, len(stream.stored)) == (0, MAX_RUNS)
    for seq in range(1, top):
        ledger.settle(run(seq))
    assert (stream.settled, stream.highest) == (top - 1, top - 1)


def test_a_stream_with_a_long_history_of_losses_goes_on() -> None:
    ledger = Ledger()
    for seq in range(2, 3 * MAX_RUNS, 2):
        ledger.settle(run(seq, first=seq))
        assert ledger.streams("A")[0].settled == seq
    state = state_of(ledger.streams("A")[0], 1)
    assert (state.missing, state.lost) == (0, MAX_RUNS)


# --- bounds ----------------------------------------------------------------------------------------


def test_of_an_agent_the_streams_heard_of_last_are_kept() -> None:
    ledger = Ledger()
    for number in range(MAX_STREAMS):
        ledger.settle(run(1, stream=f"s{number}"))
    ledger.settle(run(2, stream="s0"))
    ledger.settle(run(1, stream="new"))
    names = [stream.name for stream in ledger.streams("A")]
    assert names == ["new", "s0", *(f"s{number}" for number in range(MAX_STREAMS - 1, 1, -1))]


def test_of_more_stored_streams_than_are_kept_the_ones_heard_of_last_are_loaded() -> None:
    stored = [
        run(seq, stream=f"s{number}", received=100 * seq - number) for number in range(40) for seq in (2, 1)
    ]
    ledger = Ledger()
    ledger.load(stored)
    assert [stream.name for stream in ledger.streams("A")] == [f"s{number}" for number in range(MAX_STREAMS)]
    assert {stream.settled for stream in ledger.streams("A")} == {2}


def test_a_long_shuffled_stream_is_loaded_whole() -> None:
    stored = [run(seq, received=seq % 7) for seq in range(1, 3 * MAX_RUNS)]
    ledger = Ledger()
    ledger.load(sorted(stored, key=lambda one: one.low % 3))
    assert ledger.streams("A")[0].settled == 3 * MAX_RUNS - 1


def test_streams_that_nobody_has_heard_of_for_long_are_forgotten() -> None:
    ledger = Ledger()
    ledger.settle(run(1, stream="old", received=1))
    ledger.settle(run(1, stream="new", received=2))
    ledger.forget_untouched(at(2))
    assert [stream.name for stream in ledger.streams("A")] == ["new"]
    ledger.forget_untouched(at(3))
    assert ledger.streams("A") == []


# --- gaps ------------------------------------------------------------------------------------------


def test_every_gap_is_told_with_its_state_and_the_time_that_it_covers() -> None:
    stream = stream_of(
        run(1, 2), run(6, 7), run(5, fate=Fate.REFUSED), run(9, first=4), run(11, fate=Fate.REFUSED)
    )
    state = state_of(stream, 100)
    assert state.gaps == (
        Gap(11, 11, 1, State.REFUSED, at(9), None),
        Gap(10, 10, 1, State.MISSING, at(9), None),
        Gap(8, 8, 1, State.MISSING, at(7), at(9)),
        Gap(5, 5, 1, State.REFUSED, at(2), at(6)),
        Gap(4, 4, 1, State.MISSING, at(2), at(6)),
        Gap(3, 3, 1, State.LOST, at(2), at(6)),
    )
    assert (state.missing, state.lost, state.refused, state.gap_count) == (3, 1, 2, 6)
    assert (state.seq, state.highest, state.first) == (3, 11, 4)
    assert state_of(stream, 2).gaps == state.gaps[:2]
    assert state_of(stream, 2).gap_count == 6


def test_what_an_agent_gave_up_before_it_was_first_heard_of_is_lost() -> None:
    state = state_of(stream_of(run(4, first=4)), 9)
    assert state.gaps == (Gap(1, 3, 3, State.LOST, None, at(4)),)


def test_a_message_that_was_refused_and_stored_later_is_no_gap() -> None:
    assert state_of(stream_of(run(1, fate=Fate.REFUSED), run(1)), 9).gap_count == 0


@given(st.lists(messages, min_size=1, max_size=40))
def test_stored_numbers_and_gaps_together_are_all_numbers_once(messages: list[Run]) -> None:
    stream = stream_of(*messages)
    stored = {one.low for one in messages if one.fate is Fate.STORED}
    refused = {one.low for one in messages if one.fate is Fate.REFUSED} - stored
    state = state_of(stream, 1000)
    told = [(number, gap.state) for gap in state.gaps for number in range(gap.start, gap.end + 1)]
    open_numbers = set(range(1, stream.highest + 1)) - stored - refused
    assert sorted(told) == sorted(
        [(number, State.REFUSED) for number in refused]
        + [(number, State.LOST) for number in open_numbers if number < stream.first]
        + [(number, State.MISSING) for number in open_numbers if number >= stream.first]
    )
    assert state.missing + state.lost + state.refused == len(told) == sum(gap.count for gap in state.gaps)


# --- completeness ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, 80.0),
        (at(0), at(99), 80.0),
        (at(0), at(3), 100.0),  # before the gap
        (at(9), None, 100.0),  # after it
        (at(50), at(60), 100.0),  # where nothing is known of
        (at(4), at(7), 0.0),  # within it
    ],
)
def test_a_gap_counts_where_its_time_lies_in_the_range(
    start: datetime | None, end: datetime | None, expected: float
) -> None:
    assert completeness([stream_of(run(1, 4), run(7, 10))], start, end) == pytest.approx(expected)


def test_completeness_is_never_rounded_up_to_100() -> None:
    assert completeness([stream_of(run(1, 999_999), run(1_000_001, 2_000_000))], None, None) == 99.99


def test_what_was_given_up_or_refused_counts_like_what_is_missing() -> None:
    stream = stream_of(run(1), run(2, fate=Fate.REFUSED), run(4, first=4))
    assert completeness([stream], None, None) == 50.0


def test_streams_count_together_and_a_gap_without_a_known_time_does_not() -> None:
    whole, late = stream_of(run(1, 3)), stream_of(run(5, first=5), run(7))
    assert completeness([whole, late], None, None) == 83.33
