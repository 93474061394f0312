"""What nobody watches is not published at full speed, and nobody who watches goes without."""

from __future__ import annotations

import pytest

from pingup.brokers.watchers import ASK_EVERY, ASKED, UNASKED, Watchers

TOPIC = "pingup/v1/live/A/metrics"


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def time(self) -> float:
        return self.seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def watchers(hands: Hands) -> Watchers:
    return Watchers(hands.time)


def flood(watchers: Watchers) -> None:
    """As many messages as go out in a second to topics that nobody has subscribed to."""
    for _ in range(UNASKED):
        watchers.told(TOPIC)


def ask(watchers: Watchers, *, is_watched: bool, topic: str = TOPIC) -> None:
    watchers.asked(topic)
    watchers.learn(topic, is_watched=is_watched)


def test_a_topic_that_nothing_is_known_of_may_be_watched_and_is_asked_about(watchers: Watchers) -> None:
    flood(watchers)
    assert watchers.may_watch(TOPIC)
    assert watchers.should_ask(TOPIC)


def test_until_the_first_answer_everything_goes_out(watchers: Watchers) -> None:
    watchers.asked(TOPIC)
    flood(watchers)
    flood(watchers)
    assert watchers.may_watch(TOPIC)
    assert not watchers.should_ask(TOPIC)


def test_few_messages_go_out_whatever_the_broker_has_said(watchers: Watchers, hands: Hands) -> None:
    for _ in range(3 * UNASKED):
        ask(watchers, is_watched=False)
        assert watchers.may_watch(TOPIC)
        watchers.told(TOPIC)
        hands.seconds += 1 / UNASKED


def test_a_flood_that_nobody_watches_is_held_back_until_the_next_question(
    watchers: Watchers, hands: Hands
) -> None:
    ask(watchers, is_watched=False)
    for _ in range(3):
        flood(watchers)
    assert not watchers.may_watch(TOPIC)
    assert watchers.may_watch("pingup/v1/live/B/metrics")
    hands.seconds += ASK_EVERY
    assert watchers.may_watch(TOPIC)
    assert watchers.should_ask(TOPIC)
    ask(watchers, is_watched=False)
    assert not watchers.may_watch(TOPIC)


def test_what_a_long_flood_has_taken_is_forgotten_within_seconds(watchers: Watchers, hands: Hands) -> None:
    ask(watchers, is_watched=False)
    for _ in range(100):
        flood(watchers)
    assert not watchers.may_watch(TOPIC)
    hands.seconds += 6
    ask(watchers, is_watched=False)
    assert watchers.may_watch(TOPIC)


def test_who_begins_to_watch_gets_everything(watchers: Watchers) -> None:
    ask(watchers, is_watched=False)
    flood(watchers)
    flood(watchers)
    ask(watchers, is_watched=True)
    assert watchers.may_watch(TOPIC)
    flood(watchers)
    flood(watchers)
    assert watchers.may_watch(TOPIC)


def test_each_agent_of_a_large_fleet_is_asked_about_less_often(watchers: Watchers, hands: Hands) -> None:
    for number in range(5 * ASKED):
        watchers.asked(f"pingup/v1/live/{number}/metrics")
    ask(watchers, is_watched=False)
    hands.seconds += 4
    assert not watchers.should_ask(TOPIC)
    hands.seconds += 2
    assert watchers.should_ask(TOPIC)


def test_of_another_broker_and_of_a_removed_agent_nothing_is_known(watchers: Watchers) -> None:
    for forget in (watchers.forget_all, lambda: watchers.forget(TOPIC)):
        ask(watchers, is_watched=False)
        forget()
        watchers.learn(TOPIC, is_watched=False)  # the answer came too late
        assert watchers.should_ask(TOPIC)
