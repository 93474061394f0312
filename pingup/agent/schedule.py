"""Which message goes out next, and when. Numbers and seconds alone: no clock, no disk, no broker in here.

A message is in one of these places:

    fresh          put while there was a connection: goes out at once
    backlog[n]     waits for its turn, the oldest first, at a bounded pace
    in flight      sent, and not yet acknowledged by the broker
    unconfirmed[n] acknowledged by the broker, and not yet known to be with the server
    (gone)         freed, dropped, or never held

`n` is how often it was already unconfirmed for as long as it may be, before it was sent once more. The way
is fresh or backlog → in flight → unconfirmed[n] → backlog[n + 1] → in flight …, back from in flight to
backlog[n] when the connection breaks, and from anywhere to gone.
"""

from __future__ import annotations

import logging
import math
from collections import deque

import msgspec

from pingup.agent.ranges import Ranges
from pingup.agent.spool_file import Extent, Proof

WINDOW = 32
LONGEST_WAIT = 3600.0
# After so long in a session without a word of the server's presence, repeats go out all the same.
SILENCE = 2.0
# How far the backlog may run ahead of its pace to make up for a late timer, in seconds.
_SLACK = 0.05
_log = logging.getLogger(__name__)


class Pace(msgspec.Struct, frozen=True):
    """`rate` is messages of the backlog a second, `resend` the seconds until the first repeat."""

    rate: float = 200.0
    resend: float = 60.0


class _Flight(msgspec.Struct, frozen=True):
    stage: int
    is_fresh: bool


class _Unconfirmed(msgspec.Struct):
    """Adjoining messages that were acknowledged at about the same time, the last of them at `at`."""

    first: int
    last: int
    begun: float
    at: float


class Schedule:
    """The places of all messages of one stream. Every `now` is seconds of one clock that never goes back."""

    def __init__(self, extent: Extent, pace: Pace) -> None:
        """Everything that is held already is backlog."""
        self.stream = extent.stream
        self.proof = extent.proof
        self.first = extent.first
        self.last = extent.last
        # What was there at the start may have been sent by the process before.
        self.sent = extent.last
        self._pace = pace
        self._stages = _stages(pace.resend)
        self._fresh: deque[int] = deque()
        self._backlog = [Ranges() for _ in self._stages]
        self._in_flight: dict[int, _Flight] = {}
        self._fresh_in_flight = 0
        self._unconfirmed: list[deque[_Unconfirmed]] = [deque() for _ in self._stages]
        self._next_turn = -math.inf
        self._server_is_there = True
        self._server_was_heard = False
        self._silent_until: float | None = None
        self._backlog[0].add(extent.first, extent.last)

    # --- what there is -------------------------------------------------------------------------------

    def extend(self, extent: Extent, *, fresh: bool) -> None:
        """The spool holds other messages now: new ones were put in, old ones may have gone."""
        self._drop_below(extent.first)
        for seq in range(max(self.last + 1, extent.first), extent.last + 1) if fresh else ():
            if len(self._fresh) + self._fresh_in_flight >= WINDOW:
                break
            self._fresh.append(seq)
            self.last = seq
        self._backlog[0].add(max(self.last + 1, extent.first), extent.last)
        self.last = max(self.last, extent.last)

    def _drop_below(self, first: int) -> None:
        if first <= self.first:
            return
        self.first = first
        while self._fresh and self._fresh[0] < first:
            self._fresh.popleft()
        for waiting in self._backlog:
            waiting.discard_through(first - 1)
        for unconfirmed in self._unconfirmed:
            while unconfirmed and unconfirmed[0].last < first:
                unconfirmed.popleft()

    # --- what goes out -------------------------------------------------------------------------------

    def next(self, now: float) -> int | None:
        """The number of the message to send now; it is in flight then. None: there is none yet."""
        self._collect_due(now)
        if self._fresh and self._fresh_in_flight < WINDOW:
            self._fresh_in_flight += 1
            return self._start(self._fresh.popleft(), _Flight(0, is_fresh=True))
        stage = self._oldest_stage()
        if stage is None or not self._has_window or now < self._next_turn:
            return None
        self._next_turn = max(self._next_turn, now - _SLACK) + 1 / self._pace.rate
        return self._start(self._backlog[stage].pop_lowest(), _Flight(stage, is_fresh=False))

    def _start(self, seq: int, flight: _Flight) -> int:
        self._in_flight[seq] = flight
        self.sent = max(self.sent, seq)
        return seq

    @property
    def _has_window(self) -> bool:
        return len(self._in_flight) - self._fresh_in_flight < WINDOW

    def _oldest_stage(self) -> int | None:
        waiting = [(ranges.lowest, stage) for stage, ranges in enumerate(self._sendable) if ranges]
        return min(waiting)[1] if waiting else None

    @property
    def _sendable(self) -> list[Ranges]:
        """The backlog without the repeats when those have to wait."""
        return self._backlog if self._may_repeat else self._backlog[:1]

    @property
    def _may_repeat(self) -> bool:
        return self._server_is_there and self._silent_until is None

    def pause(self, now: float) -> float | None:
        """Seconds until `next` may have another answer by itself, None for never."""
        moments = []
        if self._has_window and any(self._sendable):
            moments.append(self._next_turn)
        if self._silent_until is not None:
            moments.append(self._silent_until)
        elif self._server_is_there:
            moments += [
                runs[0].at + wait for runs, wait in zip(self._unconfirmed, self._stages, strict=True) if runs
            ]
        return max(0.0, min(moments) - now) if moments else None

    def _collect_due(self, now: float) -> None:
        """Have everything sent again that was unconfirmed for too long, as soon as repeats may go out."""
        if self._silent_until is not None and now >= self._silent_until:
            self._turn(there=True, now=now)
        for stage, (runs, wait) in enumerate(zip(self._unconfirmed, self._stages, strict=True)):
            following = min(stage + 1, len(self._stages) - 1)
            while runs and runs[0].at + wait <= now:
                run = runs.popleft()
                self._backlog[following].add(max(run.first, self.first), run.last)

    # --- what became of it ---------------------------------------------------------------------------

    def acknowledged(self, seq: int, now: float) -> Ranges:
        """The broker has acknowledged a message; what may leave the spool for that."""
        flight = self._land(seq)
        if flight is None or seq < self.first:
            return Ranges()
        if self.proof is Proof.UNKNOWN and flight.stage and self._server_was_heard:
            # The server was there all the time, or the stage would be 0 again, and has sent no receipt. Where
            # nobody says that he is there, an acknowledged message may have gone to nobody at all.
            self.proof = Proof.PUBACK
            _log.info("the server sends no receipts: what the broker has acknowledged is not kept")
            return self._give_up_waiting(seq)
        if self.proof is Proof.PUBACK:
            return Ranges([(seq, seq)])
        self._wait(seq, flight.stage, now)
        return Ranges()

    def failed(self, seq: int) -> None:
        """The connection broke before the broker acknowledged a message."""
        flight = self._land(seq)
        if flight is not None and seq >= self.first:
            self._backlog[flight.stage].add(seq, seq)

    def vanished(self, seq: int) -> None:
        """The spool did not hold a message any more when it was to be sent."""
        self._land(seq)

    def _land(self, seq: int) -> _Flight | None:
        flight = self._in_flight.pop(seq, None)
        if flight is not None and flight.is_fresh:
            self._fresh_in_flight -= 1
        return flight

    def _wait(self, seq: int, stage: int, now: float) -> None:
        runs = self._unconfirmed[stage]
        newest = runs[-1] if runs else None
        # A run spans little time beside its wait, so there are few runs, however many messages there are.
        span = self._stages[stage] / 60
        if newest is not None and newest.last + 1 == seq and now - newest.begun <= span:
            newest.last, newest.at = seq, now
        else:
            runs.append(_Unconfirmed(seq, seq, now, now))

    def _give_up_waiting(self, seq: int) -> Ranges:
        freed = self._all_unconfirmed()
        freed.add(seq, seq)
        for runs in self._unconfirmed:
            runs.clear()
        return freed

    def _all_unconfirmed(self) -> Ranges:
        return Ranges((max(run.first, self.first), run.last) for runs in self._unconfirmed for run in runs)

    # --- what the server says ------------------------------------------------------------------------

    def receipt(self, seq: int) -> Ranges:
        """The server has every message up to this one, at most `sent`; what may leave the spool for that."""
        self.proof = Proof.RECEIPT
        freed = Ranges([(self.first, seq)])
        self._drop_below(seq + 1)
        return freed

    def session(self, now: float) -> None:
        """A session has begun: whether the server is there is told in a moment, if it ever was."""
        self._server_was_heard = False
        self._silent_until = now + min(SILENCE, self._pace.resend)

    def server(self, *, there: bool, now: float) -> None:
        """The server is there or not. While it is not, nothing is repeated; then every wait begins anew."""
        self._server_was_heard = there
        self._turn(there=there, now=now)

    def _turn(self, *, there: bool, now: float) -> None:
        self._silent_until = None
        if there == self._server_is_there:
            return
        self._server_is_there = there
        waiting = self._all_unconfirmed()
        for repeats in self._backlog[1:]:
            for first, last in repeats:
                waiting.add(first, last)
            repeats.discard_through(self.last)
        for runs in self._unconfirmed:
            runs.clear()
        self._unconfirmed[0].extend(_Unconfirmed(first, last, now, now) for first, last in waiting)
        self._in_flight = {seq: _Flight(0, flight.is_fresh) for seq, flight in self._in_flight.items()}


def _stages(resend: float) -> tuple[float, ...]:
    """The waits before the first repeat, the second …: each twice the one before, in the end an hour."""
    waits = [resend]
    while waits[-1] < LONGEST_WAIT:
        waits.append(min(LONGEST_WAIT, waits[-1] * 2))
    return (*waits, LONGEST_WAIT)
