"""When which message is sent, by a clock that the test owns."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pingup.agent.schedule import SILENCE, WINDOW, Pace, Schedule
from pingup.agent.spool_file import Extent, Proof

PACE = Pace(rate=200.0, resend=60.0)
HOUR = 360  # messages, one every 10 s


def _extent(last: int, first: int = 1, proof: Proof = Proof.RECEIPT) -> Extent:
    return Extent("stream", first, last, proof)


class Play:
    """A schedule, a clock, and a broker that acknowledges at once unless told otherwise."""

    def __init__(self, held: int, *, proof: Proof = Proof.RECEIPT, pace: Pace = PACE) -> None:
        self.now = 1000.0
        self.schedule = Schedule(_extent(held, proof=proof), pace)
        self.sent: list[tuple[float, int]] = []
        self.freed: list[tuple[int, int]] = []

    def put(self, last: int, *, fresh: bool = True) -> None:
        self.schedule.extend(_extent(last, self.schedule.first, self.schedule.proof), fresh=fresh)

    def send(self) -> list[int]:
        """Everything that goes out at this moment, acknowledged or not."""
        numbers = []
        while (seq := self.schedule.next(self.now)) is not None:
            numbers.append(seq)
            self.sent.append((self.now, seq))
        return numbers

    def acknowledge(self, *numbers: int) -> None:
        for seq in numbers:
            self.freed += self.schedule.acknowledged(seq, self.now)

    def run(self, seconds: float) -> list[tuple[float, int]]:
        """Let time pass as the sender does: from one moment of which it is told to the next."""
        end, begun = self.now + seconds, len(self.sent)
        while True:
            while sent := self.send():
                self.acknowledge(*sent)
            pause = self.schedule.pause(self.now)
            if pause is None or self.now + pause > end:
                self.now = end
                return self.sent[begun:]
            self.now += pause

    def lapse(self, seconds: float) -> list[tuple[float, int]]:
        """The same, in seconds from now."""
        begun = self.now
        return [(round(at - begun, 3), seq) for at, seq in self.run(seconds)]


def test_without_an_outage_everything_goes_out_at_once() -> None:
    play = Play(0)
    for last in range(1, 10):
        play.put(last)
        assert play.send() == [last]
        play.acknowledge(last)


def test_after_an_hour_away_fresh_values_come_first_and_the_backlog_oldest_first_at_its_pace() -> None:
    play = Play(HOUR, pace=Pace(rate=20.0, resend=60.0))
    moments = {}
    for last in range(HOUR + 1, HOUR + 11):  # one fresh message a second
        play.put(last)
        for at, seq in play.run(1.0):
            moments[seq] = at - 1000.0
    backlog = [seq for _, seq in play.sent if seq <= HOUR]
    assert backlog == list(range(1, len(backlog) + 1))
    assert len(backlog) == pytest.approx(200, abs=2)
    # Evenly, not in bursts.
    times = [at for at, seq in play.sent if seq <= HOUR]
    assert max(later - sooner for sooner, later in pairwise(times)) == pytest.approx(1 / 20)
    assert [moments[HOUR + number] for number in range(1, 11)] == [float(number) for number in range(10)]


def test_a_broker_that_does_not_answer_gets_a_window_of_each_lane_and_no_more() -> None:
    play = Play(1000, pace=Pace(rate=1e6))
    assert play.send() == list(range(1, WINDOW + 1))
    assert play.schedule.pause(play.now) is None
    play.put(1000 + WINDOW)
    assert play.send() == list(range(1001, 1001 + WINDOW))
    # One more waits its turn in the backlog.
    play.put(1001 + WINDOW)
    assert play.send() == []
    play.acknowledge(1)
    assert play.send() == [WINDOW + 1]


def test_what_a_broken_connection_held_is_sent_again_at_once_the_oldest_first() -> None:
    play = Play(3)
    assert play.send() == [1, 2, 3]
    play.put(4)
    assert play.send() == [4]
    play.acknowledge(2)
    for seq in (4, 1, 3):
        play.schedule.failed(seq)
    assert [seq for _, seq in play.lapse(1.0)] == [1, 3, 4]


def test_without_a_receipt_a_message_is_sent_again_after_longer_and_longer_waits() -> None:
    play = Play(1)
    moments = [at for at, _ in play.lapse(4 * 3600.0)]
    waits = [later - sooner for sooner, later in pairwise(moments)]
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_receipt_ends_the_repeats_of_what_it_covers() -> None:
    play = Play(3)
    play.run(1.0)
    assert list(play.schedule.receipt(2)) == [(1, 2)]
    assert play.schedule.first == 3
    assert [seq for _, seq in play.lapse(100.0)] == [3]


def test_an_older_or_repeated_receipt_changes_nothing() -> None:
    play = Play(3)
    play.schedule.receipt(2)
    for seq in (2, 1, 0):
        assert not play.schedule.receipt(seq)
    assert play.schedule.first == 3
    assert play.send() == [3]


def test_while_the_server_is_away_nothing_is_repeated_and_then_every_wait_begins_anew() -> None:
    play = Play(1)
    assert play.lapse(200.0) == [(0, 1), (60, 1), (180, 1)]
    play.schedule.server(there=False, now=play.now)
    play.put(2)
    assert play.lapse(36_000.0) == [(0, 2)]
    play.schedule.server(there=True, now=play.now)
    assert play.lapse(200.0) == [(60, 1), (60, 2), (180, 1), (180, 2)]


def test_a_repeat_that_was_about_to_go_out_waits_for_the_server_too() -> None:
    play = Play(1)
    play.run(59.0)
    play.now += 60.0
    play.schedule.next(play.now)  # due, and in flight
    play.schedule.server(there=False, now=play.now)
    play.schedule.failed(1)
    # The broker doesn't have it, so this is no repeat; but then it has.
    assert play.lapse(1000.0) == [(0, 1)]


def test_a_new_session_waits_a_moment_to_hear_whether_the_server_is_there() -> None:
    play = Play(1)
    play.run(1.0)
    play.now += 3600.0
    play.schedule.session(play.now)
    play.put(2)
    assert play.lapse(10.0) == [(0, 2), (SILENCE, 1)]


def test_a_server_of_which_nothing_is_heard_in_a_new_session_counts_as_there() -> None:
    play = Play(1)
    play.run(1.0)
    play.schedule.server(there=False, now=play.now)
    play.schedule.session(play.now)
    assert play.lapse(100.0) == [(SILENCE + 60, 1)]


# --- what shows that a message has arrived -----------------------------------------------------------


def test_where_no_receipt_ever_comes_the_second_acknowledgement_frees_everything_acknowledged() -> None:
    play = Play(2, proof=Proof.UNKNOWN)
    play.schedule.server(there=True, now=play.now)
    play.run(30.0)
    play.put(3)
    play.run(29.0)
    assert not play.freed
    play.run(2.0)
    assert play.schedule.proof is Proof.PUBACK
    assert {seq for first, last in play.freed for seq in range(first, last + 1)} == {1, 2, 3}
    play.freed.clear()
    play.put(4)
    play.run(100.0)
    assert play.freed == [(4, 4)]


def test_what_was_numbered_and_never_sent_is_known_to_be_so() -> None:
    play = Play(2, pace=Pace(rate=1.0, resend=60.0))
    play.put(50, fresh=False)
    assert play.schedule.sent == 2
    play.run(9.0)
    assert (play.schedule.sent, play.schedule.last) == (10, 50)


def test_where_nobody_says_that_the_server_is_there_acknowledgements_prove_nothing() -> None:
    play = Play(1, proof=Proof.UNKNOWN)
    play.schedule.session(play.now)
    play.run(500.0)
    assert len(play.sent) > 3
    assert not play.freed


def test_a_server_that_is_away_is_not_taken_for_one_that_sends_no_receipts() -> None:
    play = Play(1, proof=Proof.UNKNOWN)
    play.schedule.server(there=False, now=play.now)
    play.run(100.0)
    play.schedule.server(there=True, now=play.now)
    play.run(59.0)
    assert not play.freed
    play.run(2.0)
    assert play.freed == [(1, 1)]


def test_a_server_that_goes_away_during_the_second_attempt_proves_nothing() -> None:
    play = Play(1, proof=Proof.UNKNOWN)
    play.run(1.0)
    play.now += 60.0
    assert play.send() == [1]
    play.schedule.server(there=False, now=play.now)
    play.acknowledge(1)
    assert play.schedule.proof is Proof.UNKNOWN
    assert not play.freed


def test_the_first_receipt_ends_freeing_by_acknowledgements_for_good() -> None:
    play = Play(1, proof=Proof.PUBACK)
    play.run(1.0)
    assert play.freed == [(1, 1)]
    play.put(2)
    play.schedule.receipt(1)
    play.run(10_000.0)
    assert play.freed == [(1, 1)]
    assert play.schedule.proof is Proof.RECEIPT


def test_dropping_the_oldest_raises_what_is_still_held_and_forgets_the_rest() -> None:
    play = Play(5)
    assert play.send() == [1, 2, 3, 4, 5]
    play.acknowledge(1, 2)
    play.schedule.extend(_extent(8, first=5), fresh=False)
    assert play.schedule.first == 5
    play.schedule.failed(3)
    play.acknowledge(5)
    assert [seq for _, seq in play.lapse(70.0)] == [6, 7, 8, 5, 6, 7, 8]


def test_however_many_messages_are_unconfirmed_little_is_remembered_of_them() -> None:
    play = Play(10_000, pace=Pace(rate=100.0, resend=60.0))
    for _ in range(10):
        play.run(60.0)
        assert sum(len(runs) for runs in play.schedule._unconfirmed) < 500
    assert len({seq for _, seq in play.sent}) == 10_000
