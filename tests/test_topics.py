"""Only agent ids get into topics, and filters match as MQTT says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingup import topics
from pingup.topics import Kind

levels = st.sampled_from(["pingup", "v1", "up", "down", "a", "b", "", "metrics"])
names = st.lists(levels, min_size=1, max_size=5).map("/".join)


@st.composite
def filters(draw: st.DrawFn) -> str:
    parts = draw(st.lists(levels | st.just("+"), min_size=1, max_size=5))
    return "/".join([*parts, "#"] if draw(st.booleans()) else parts)


@pytest.mark.parametrize("agent_id", ["a", "AGENT-001", "0", "a.b_c-d", "x" * 64, "operators", "serverx"])
def test_an_agent_may_be_named(agent_id: str) -> None:
    assert topics.is_agent_id(agent_id)
    for kind in Kind:
        assert topics.parse_up(topics.up(agent_id, kind)) == (agent_id, kind)


@pytest.mark.parametrize(
    "agent_id",
    [
        *("", "-a", ".a", "_a", "a/b", "a+", "#", "a b", "a\n", "é", "x" * 65),
        *("server", "operator", "operator.x", "pending", "latest", "hosts", "history", "bin"),
    ],
)
def test_no_agent_may_be_named(agent_id: str) -> None:
    assert not topics.is_agent_id(agent_id)
    assert topics.parse_up(f"pingup/v1/up/{agent_id}/metrics") is None


def test_what_lies_below_up_is_an_agents_whatever_it_is() -> None:
    for topic in ("pingup/v1/up/A", "pingup/v1/up/A/metrics", "pingup/v1/up/A/nonsense/x"):
        assert topics.owner_of(topic) == "A"
    for topic in ("pingup/v1/up/server/metrics", "pingup/v1/up/", "pingup/v1/down/A/config"):
        assert topics.owner_of(topic) is None


@pytest.mark.parametrize(
    "topic",
    [
        "pingup/v1/up/A",
        "pingup/v1/up/A/",
        "pingup/v1/up/A/nonsense",
        "pingup/v1/up/A/metrics/x",
        "pingup/v1/down/A/metrics",
        "pingup/v2/up/A/metrics",
        "/pingup/v1/up/A/metrics",
    ],
)
def test_other_topics_are_none_of_ours(topic: str) -> None:
    assert topics.parse_up(topic) is None


@pytest.mark.parametrize(
    ("topic", "topic_filter", "matches"),
    [
        ("a/b/c", "a/b/c", True),
        ("a/b/c", "a/+/c", True),
        ("a/b/c", "a/#", True),
        ("a", "a/#", True),
        ("a/b/c", "#", True),
        ("a/b/c", "a/+", False),
        ("a/b", "a/b/c", False),
        ("a/", "a/+", True),
        ("$SYS/x", "#", False),
        ("$SYS/x", "+/x", False),
        ("$SYS/x", "$SYS/#", True),
    ],
)
def test_filters_match_as_mqtt_says(topic: str, topic_filter: str, matches: bool) -> None:
    assert topics.matches(topic, topic_filter) is matches


@given(names, filters(), filters())
def test_two_filters_overlap_if_a_topic_matches_both(topic: str, one: str, other: str) -> None:
    if topics.matches(topic, one) and topics.matches(topic, other):
        assert topics.overlap(one, other)
    assert topics.overlap(one, other) == topics.overlap(other, one)


@given(filters(), names)
def test_a_filter_overlaps_a_name_exactly_if_it_matches_it(topic_filter: str, topic: str) -> None:
    assert topics.overlap(topic_filter, topic) == topics.matches(topic, topic_filter)


@pytest.mark.parametrize(
    ("wider", "narrower", "covers"),
    [
        ("a/#", "a/#", True),
        ("a/#", "a/b/+", True),
        ("a/#", "a", True),
        ("a/+", "a/b", True),
        ("+/#", "#", True),
        ("#", "+/a", True),
        ("a/b", "a/+", False),
        ("a/+", "a/#", False),
        ("a/+/#", "a/#", False),
        ("a/#", "#", False),
        ("a/#", "+/b", False),
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/#", "$SYS/+", True),
    ],
)
def test_one_filter_covers_another(wider: str, narrower: str, covers: bool) -> None:
    assert topics.covers(wider, narrower) is covers


@given(names, filters(), filters())
def test_what_a_covered_filter_matches_is_matched(topic: str, wider: str, narrower: str) -> None:
    if topics.covers(wider, narrower) and topics.matches(topic, narrower):
        assert topics.matches(topic, wider)


@given(filters(), filters())
def test_a_filter_is_covered_exactly_if_all_it_stands_for_is_matched(wider: str, narrower: str) -> None:
    covered = all(topics.matches(topic, wider) for topic in _examples(narrower, len(wider)))
    assert topics.covers(wider, narrower) is covered


def _examples(topic_filter: str, depth: int) -> list[str]:
    """Names that a filter matches: a level that nobody names for each wildcard, to a depth."""
    fixed = ["nobody" if level == "+" else level for level in topic_filter.split("/")]
    if fixed[-1] != "#":
        return ["/".join(fixed)]
    parent = fixed[:-1]
    return ["/".join([*parent, *["nobody"] * more]) for more in range(0 if parent else 1, depth + 2)]
