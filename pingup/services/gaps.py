"""What is missing between the numbered messages that are stored, and how complete a stretch of time is.

All of it comes from the ledger; the tables are not asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum

import msgspec

from pingup.services.ledger import Stream
from pingup.services.runs import micros, moment_of


class State(StrEnum):
    """Why a number is not stored: it may still come, the agent has given it up, the server has refused it."""

    MISSING = "missing"
    LOST = "lost"
    REFUSED = "refused"


class Gap(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """Numbers from `start` to `end`, both included, that are not stored.

    `after` and `before` are the moments, by the agent's clock, of the stored messages on either side of it:
    in between lies the time that is missing. None where there is no such message.
    """

    start: int
    end: int
    count: int
    state: State
    after: datetime | None
    before: datetime | None


class StreamState(msgspec.Struct, frozen=True, rename="camel"):
    """A stream as people see it: `seq` is the number up to which all is settled, as receipts say it.

    `missing`, `lost` and `refused` count numbers, `gap_count` all gaps; of these `gaps` shows the newest.
    """

    stream: str
    seq: int
    highest: int
    first: int
    missing: int
    lost: int
    refused: int
    updated_at: datetime
    gap_count: int
    gaps: tuple[Gap, ...]


class _Hole(msgspec.Struct, frozen=True):
    """A gap with its moments in microseconds since 1970."""

    low: int
    high: int
    state: State
    after: int | None
    before: int | None

    @property
    def count(self) -> int:
        return self.high - self.low + 1


def state_of(stream: Stream, limit: int) -> StreamState:
    """A stream with at most `limit` gaps, the newest first."""
    holes = list(_holes(stream))
    counts = dict.fromkeys(State, 0)
    for hole in holes:
        counts[hole.state] += hole.count
    return StreamState(
        stream=stream.name,
        seq=stream.settled,
        highest=stream.highest,
        first=stream.first,
        missing=counts[State.MISSING],
        lost=counts[State.LOST],
        refused=counts[State.REFUSED],
        updated_at=stream.updated_at,
        gap_count=len(holes),
        gaps=tuple(map(_gap, holes[: -limit - 1 : -1])),
    )


def completeness(streams: Iterable[Stream], start: datetime | None, end: datetime | None) -> float:
    """How much of what an agent has numbered between `start` and `end` is stored: percent, rounded down.

    Messages count by number. Those of a run are taken to be spread evenly over its time, and those of a gap
    over the time between the stored messages on either side of it; what lies within the bounds counts. A gap
    without a stored message on one side has no known time and counts nowhere. 100.0 when nothing is missing.
    """
    low = -math.inf if start is None else micros(start)
    high = math.inf if end is None else micros(end)
    stored = absent = 0.0
    for stream in streams:
        for run in stream.stored:
            stored += (run.high - run.low + 1) * _share(run.low_at, run.high_at, low, high)
        for hole in _holes(stream):
            if hole.after is not None and hole.before is not None:
                absent += hole.count * _share(hole.after, hole.before, low, high)
    if absent == 0:
        return 100.0
    # Not to the nearest: 100 is said of nothing that has a gap.
    return math.floor(stored / (stored + absent) * 10_000) / 100


def _share(one: int, other: int, low: float, high: float) -> float:
    """The part of the time between two moments that lies from `low` up to but without `high`."""
    begin, end = min(one, other), max(one, other)
    if begin == end:
        return 1.0 if low <= begin < high else 0.0
    return max(0.0, min(end, high) - max(begin, low)) / (end - begin)


def _holes(stream: Stream) -> Iterator[_Hole]:
    """What is not stored of a stream, from below."""
    low = max(stream.stored.floor, stream.refused.floor) + 1
    after: int | None = None
    for run in stream.stored:
        if run.low > low:
            yield from _parts(stream, low, run.low - 1, after, run.low_at)
        low, after = max(low, run.high + 1), run.high_at
    if low <= stream.highest:
        yield from _parts(stream, low, stream.highest, after, None)


def _parts(stream: Stream, low: int, high: int, after: int | None, before: int | None) -> Iterator[_Hole]:
    """A stretch without a stored number, cut where the state changes."""
    for refused in stream.refused.within(low, high):
        yield from _unheard(stream.first, low, refused.low - 1, after, before)
        yield _Hole(refused.low, refused.high, State.REFUSED, after, before)
        low = refused.high + 1
    yield from _unheard(stream.first, low, high, after, before)


def _unheard(first: int, low: int, high: int, after: int | None, before: int | None) -> Iterator[_Hole]:
    given_up = min(high, first - 1)
    if low <= given_up:
        yield _Hole(low, given_up, State.LOST, after, before)
    if max(low, first) <= high:
        yield _Hole(max(low, first), high, State.MISSING, after, before)


def _gap(hole: _Hole) -> Gap:
    after = None if hole.after is None else moment_of(hole.after)
    before = None if hole.before is None else moment_of(hole.before)
    return Gap(hole.low, hole.high, hole.count, hole.state, after, before)
