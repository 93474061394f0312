"""Whether anybody watches a topic of the embedded broker: asked for each sample, so remembered, and exact."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingup.access import may_receive
from pingup.brokers.exchange import Exchange
from pingup.brokers.greeting import Login
from pingup.brokers.hardened.session import HardenedSession
from pingup.brokers.limits import Limits
from pingup.brokers.subscriber import Subscriber
from pingup.clock import SystemClock
from pingup.model import Principal, Role, Scope
from pingup.topics import SYS_STATUS, Kind, Live, down_commands, live, matches, up
from tests.contract.broker_rig import Rig
from tests.contract.mqtt_packets import UNSUBACK, unsubscribe

METRICS = live("A", Live.METRICS)

# --- as the server sees it -------------------------------------------------------------------------


async def test_nobody_watches_a_topic_that_nobody_has_subscribed_to(rig: Rig) -> None:
    agent = await rig.agent("A")
    await agent.subscribe("pingup/v1/down/A/#", SYS_STATUS)
    assert not rig.broker.is_watched(METRICS)
    assert rig.broker.is_watched(SYS_STATUS)


@pytest.mark.parametrize("topic_filter", [METRICS, "pingup/v1/live/#", "pingup/v1/live/+/metrics", "#"])
async def test_a_topic_is_watched_from_a_subscription_until_it_is_taken_back(
    rig: Rig, topic_filter: str
) -> None:
    person = await rig.operator("one", Scope.READ)
    assert not rig.broker.is_watched(METRICS)
    await person.subscribe(topic_filter)
    assert rig.broker.is_watched(METRICS)
    person.send(unsubscribe(topic_filter))
    await person.expect(UNSUBACK)
    assert not rig.broker.is_watched(METRICS)


@pytest.mark.parametrize("clean", [True, False], ids=["session ends", "session is kept"])
async def test_a_topic_is_not_watched_by_those_who_have_gone(rig: Rig, *, clean: bool) -> None:
    person = await rig.operator("one", Scope.READ, clean=clean)
    await person.subscribe(METRICS)
    assert rig.broker.is_watched(METRICS)
    await person.leave()
    assert not rig.broker.is_watched(METRICS)


async def test_a_topic_is_watched_again_when_a_kept_session_comes_back(rig: Rig) -> None:
    person = await rig.operator("one", Scope.READ, clean=False)
    await person.subscribe(METRICS)
    await person.leave()
    assert not rig.broker.is_watched(METRICS)
    await rig.operator("one", Scope.READ, clean=False, present=True)
    assert rig.broker.is_watched(METRICS)


async def test_a_topic_is_not_watched_by_who_was_revoked(rig: Rig) -> None:
    person = await rig.operator("one", Scope.READ)
    await person.subscribe("#")
    assert rig.broker.is_watched(METRICS)
    rig.broker.end_sessions("one")
    assert not rig.broker.is_watched(METRICS)


async def test_who_may_not_receive_does_not_watch(rig: Rig) -> None:
    person = await rig.operator("one", Scope.READ)
    await person.subscribe("#")
    assert not rig.broker.is_watched(down_commands("A"))
    assert not rig.broker.is_watched(up("A", Kind.METRICS))


# --- whatever happens ------------------------------------------------------------------------------

_PEOPLE = {
    "A": Principal(Role.AGENT, "A"),
    "B": Principal(Role.AGENT, "B"),
    "reader": Principal(Role.OPERATOR, "reader", Scope.READ),
    "admin": Principal(Role.OPERATOR, "admin", Scope.ADMIN),
}
_TOPICS = [SYS_STATUS, METRICS, live("B", Live.METRICS), down_commands("A"), up("A", Kind.METRICS)]
_FILTERS = [*_TOPICS, "#", "pingup/#", "pingup/v1/live/#", "pingup/v1/live/+/metrics", "+/+/down/A/#"]
_steps = st.tuples(
    st.sampled_from(sorted(_PEOPLE)),
    st.sampled_from(["subscribe 0", "subscribe 1", "unsubscribe", "forget", "look"]),
    st.sampled_from(_FILTERS),
)


# So few ways are remembered that they are forgotten all the time.
_FORGETFUL = Limits(routes=2)


@given(st.lists(_steps, max_size=30))
def test_what_is_remembered_is_what_a_look_at_every_subscription_finds(
    steps: list[tuple[str, str, str]],
) -> None:
    exchange = Exchange(_FORGETFUL)
    people = {name: _subscriber(name) for name in _PEOPLE}
    for name, what, topic_filter in steps:
        _take(exchange, people[name], what, topic_filter)
        for topic in _TOPICS:
            found = {(one.client_id, granted) for one, granted in exchange._route(topic)}
            assert found == set(_looked_up(people, topic))
            assert len(exchange._routes) <= _FORGETFUL.routes


def _take(exchange: Exchange, person: Subscriber, what: str, topic_filter: str) -> None:
    match what.split():
        case ["subscribe", qos]:
            exchange.subscribe(person, topic_filter, int(qos))
        case ["unsubscribe"]:
            exchange.unsubscribe(person, topic_filter)
        case ["forget"]:
            exchange.forget(person)


def _looked_up(people: dict[str, Subscriber], topic: str) -> Iterator[tuple[str, int]]:
    for name, person in people.items():
        granted = [qos for wanted, qos in person.filters.items() if matches(topic, wanted)]
        if granted and may_receive(person.principal, topic):
            yield name, max(granted)


def _subscriber(name: str) -> Subscriber:
    session = HardenedSession(Login(_PEOPLE[name], name), clean=True, limits=Limits(), clock=SystemClock())
    return session.subscriber
