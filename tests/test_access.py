"""Who may use which topic and which client id: the table of the contract, and nothing beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingup.access import (
    assign_client_id,
    is_filter,
    is_same_client,
    may_publish,
    may_receive,
    may_subscribe,
    may_subscribe_unfiltered,
    username_of,
)
from pingup.model import Principal, Role, Scope
from pingup.topics import matches

AGENT = Principal(Role.AGENT, "A")
READER = Principal(Role.OPERATOR, "tok_1", Scope.READ)
COMMANDER = Principal(Role.OPERATOR, "tok_2", Scope.COMMAND)
ADMIN = Principal(Role.OPERATOR, "tok_3", Scope.ADMIN)
# An operator's token may be named like an agent; that gives it nothing of the agent's.
NAMESAKE = Principal(Role.OPERATOR, "A", Scope.READ)
SERVER = Principal(Role.SERVER, "server")
PEOPLE = (AGENT, READER, COMMANDER, ADMIN, NAMESAKE)
EVERYBODY = (*PEOPLE, SERVER)

# Topic → who may publish, who may receive.
TABLE: dict[str, tuple[tuple[Principal, ...], tuple[Principal, ...]]] = {
    "pingup/v1/up/A/metrics": ((AGENT,), (ADMIN, SERVER)),
    "pingup/v1/up/A/discovery": ((AGENT,), (ADMIN, SERVER)),
    "pingup/v1/up/A/status": ((AGENT,), (ADMIN, SERVER)),
    "pingup/v1/up/A/results": ((AGENT,), (ADMIN, SERVER)),
    "pingup/v1/up/A/config": ((AGENT,), (ADMIN, SERVER)),
    "pingup/v1/up/A": ((AGENT,), (ADMIN, SERVER)),
    "pingup/v1/up/B/metrics": ((), (ADMIN, SERVER)),
    "pingup/v1/up/AA/metrics": ((), (ADMIN, SERVER)),
    "pingup/v1/down/A/commands": ((SERVER,), (AGENT, ADMIN)),
    "pingup/v1/down/A/config": ((SERVER,), (AGENT, ADMIN)),
    "pingup/v1/down/A/receipts": ((SERVER,), (AGENT, ADMIN)),
    "pingup/v1/down/B/commands": ((SERVER,), (ADMIN,)),
    "pingup/v1/down/AA/commands": ((SERVER,), (ADMIN,)),
    "pingup/v1/live/A/metrics": ((SERVER,), (READER, COMMANDER, ADMIN, NAMESAKE)),
    "pingup/v1/live/B/presence": ((SERVER,), (READER, COMMANDER, ADMIN, NAMESAKE)),
    "pingup/v1/sys/status": ((SERVER,), PEOPLE),
    "pingup/v1/sys/rejects": ((SERVER,), (READER, COMMANDER, ADMIN, NAMESAKE)),
    "pingup/v2/anything": ((), (ADMIN,)),
    "elsewhere": ((), ()),
    "$SYS/broker/uptime": ((), ()),
    "$share/group/pingup/v1/down/A/commands": ((), ()),
}


@pytest.mark.parametrize("topic", TABLE)
@pytest.mark.parametrize("principal", EVERYBODY, ids=lambda one: f"{one.role}-{one.id}-{one.scope.name}")
def test_a_topic_is_open_to_those_whom_the_contract_names(topic: str, principal: Principal) -> None:
    publishers, receivers = TABLE[topic]
    assert may_publish(principal, topic) == (principal in publishers)
    assert may_receive(principal, topic) == (principal in receivers)
    assert may_subscribe(principal, topic) == (principal in receivers)


@pytest.mark.parametrize(
    ("principal", "topic_filter", "granted"),
    [
        (AGENT, "#", True),
        (AGENT, "pingup/#", True),
        (AGENT, "pingup/v1/down/A/#", True),
        (AGENT, "pingup/v1/down/+/commands", True),
        (AGENT, "pingup/v1/+/status", True),
        (AGENT, "pingup/v1/down/B/#", False),
        (AGENT, "pingup/v1/live/#", False),
        (AGENT, "pingup/v1/up/A/#", False),
        (READER, "pingup/v1/live/+/metrics", True),
        (READER, "+/v1/sys/#", True),
        (READER, "pingup/v1/up/#", False),
        (READER, "pingup/v1/down/#", False),
        (COMMANDER, "pingup/v1/down/#", False),
        (ADMIN, "pingup/v1/down/#", True),
        (ADMIN, "other/#", False),
        (ADMIN, "pingup/" + "/".join("abcdefghijklmnop"), False),
    ],
)
def test_a_filter_is_granted_when_it_can_match_what_may_be_received(
    principal: Principal, topic_filter: str, *, granted: bool
) -> None:
    assert may_subscribe(principal, topic_filter) == granted


@pytest.mark.parametrize(
    ("principal", "topic_filter", "granted"),
    [
        (AGENT, "pingup/v1/down/A/#", True),
        (AGENT, "pingup/v1/down/A/commands", True),
        (AGENT, "pingup/v1/down/A", True),
        (AGENT, "pingup/v1/sys/status", True),
        (AGENT, "pingup/v1/down/+/commands", False),
        (AGENT, "pingup/v1/sys/#", False),
        (AGENT, "#", False),
        (READER, "pingup/v1/live/+/metrics", True),
        (READER, "pingup/v1/#", False),
        (ADMIN, "pingup/#", True),
        (ADMIN, "pingup/v1/down/#", True),
        (ADMIN, "#", False),
        (SERVER, "pingup/v1/up/#", True),
        (SERVER, "pingup/v1/up/+/status", True),
        (SERVER, "pingup/#", False),
        (ADMIN, "$share/group/pingup/#", False),
    ],
)
def test_where_deliveries_are_not_judged_a_filter_must_lie_within_what_may_be_received(
    principal: Principal, topic_filter: str, *, granted: bool
) -> None:
    assert may_subscribe_unfiltered(principal, topic_filter) == granted


@pytest.mark.parametrize(
    "broken", ["", "#/a", "a/#/b", "a#", "a/b#", "##", "a+", "+a/b", "a/++", "$SYS/#", "$"]
)
def test_a_malformed_or_hidden_filter_is_granted_to_nobody(broken: str) -> None:
    assert not is_filter(broken)
    assert not any(may_subscribe(principal, broken) for principal in EVERYBODY)


@pytest.mark.parametrize(
    ("principal", "wanted", "assigned"),
    [
        (AGENT, "A", "A"),
        (AGENT, "", "A"),
        (AGENT, "B", None),
        (AGENT, "a", None),
        (AGENT, "server", None),
        (READER, "my dashboard", "my dashboard"),
        (READER, "A", None),
        (READER, "B", "B"),
        (READER, "server", None),
        (SERVER, "server", "server"),
        (SERVER, "A", None),
    ],
)
def test_a_client_id_is_bound_to_whom_it_belongs(
    principal: Principal, wanted: str, assigned: str | None
) -> None:
    assert assign_client_id(principal, wanted, {"A"}.__contains__) == assigned


def test_an_operator_without_a_client_id_gets_one_that_no_agent_can_have() -> None:
    one = assign_client_id(READER, "", {"A"}.__contains__)
    other = assign_client_id(READER, "", {"A"}.__contains__)
    assert one is not None
    assert one != other
    assert one.startswith("operator.")


def test_a_kept_session_belongs_to_one_credential() -> None:
    assert is_same_client(AGENT, Principal(Role.AGENT, "A"))
    assert not is_same_client(READER, COMMANDER)
    assert not is_same_client(AGENT, NAMESAKE)


_names = st.sampled_from(["pingup", "v1", "up", "down", "A", "B", "", "commands", "x"])
_topics = st.lists(_names, min_size=1, max_size=7).map("/".join)
_filters = st.lists(st.one_of(_names, st.sampled_from(["+", "#"])), min_size=1, max_size=7).map("/".join)
_anything = st.one_of(_topics, _filters, st.text(max_size=40))
_below = st.one_of(_topics, st.just(""))


@given(_below, _anything)
def test_no_topic_lets_an_agent_publish_as_another(rest: str, anything: str) -> None:
    assert not may_publish(AGENT, f"pingup/v1/up/B/{rest}")
    if may_publish(AGENT, anything):
        assert anything == "pingup/v1/up/A" or anything.startswith("pingup/v1/up/A/")


@given(_below, _anything)
def test_no_filter_lets_an_agent_receive_what_is_anothers(rest: str, topic_filter: str) -> None:
    assert not may_receive(AGENT, f"pingup/v1/down/B/{rest}")
    if may_receive(AGENT, topic_filter):
        assert topic_filter == "pingup/v1/sys/status" or topic_filter.startswith("pingup/v1/down/A")
    if may_subscribe(AGENT, topic_filter):
        assert not topic_filter.startswith(("pingup/v1/down/B", "pingup/v1/up"))


@given(_filters, _topics)
def test_a_filter_that_matches_something_permitted_is_granted(topic_filter: str, topic: str) -> None:
    if is_filter(topic_filter) and matches(topic, topic_filter):
        for principal in EVERYBODY:
            if may_receive(principal, topic):
                assert may_subscribe(principal, topic_filter)


@given(st.sampled_from(EVERYBODY), _filters, _topics)
def test_a_filter_that_is_granted_unfiltered_matches_nothing_forbidden(
    principal: Principal, topic_filter: str, topic: str
) -> None:
    if may_subscribe_unfiltered(principal, topic_filter) and matches(topic, topic_filter):
        assert may_receive(principal, topic)


def test_everybody_is_a_user_of_their_own_at_a_broker_outside() -> None:
    assert username_of(AGENT) == "A"
    assert username_of(NAMESAKE) == "operator.A"
    assert username_of(SERVER) == "server"
