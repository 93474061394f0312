"""The tree finds what a walk through everything would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pingup.brokers.topic_tree import TopicTree
from pingup.topics import matches

_names = st.sampled_from(["a", "b", "c", ""])
_topics = st.lists(_names, min_size=1, max_size=5).map("/".join)
_filters = st.builds(
    lambda levels, is_open: "/".join([*levels, "#"] if is_open else levels),
    st.lists(st.one_of(_names, st.just("+")), min_size=1, max_size=5),
    st.booleans(),
)


@given(st.sets(_filters, max_size=12), st.sets(_filters, max_size=6), _topics)
def test_a_topic_finds_every_filter_that_matches_it(kept: set[str], dropped: set[str], topic: str) -> None:
    tree: TopicTree[str] = TopicTree()
    for key in kept | dropped:
        tree.put(key, key)
    for key in dropped:
        tree.drop(key)
    expected = sorted(key for key in kept - dropped if matches(topic, key))
    assert sorted(tree.matched_by_topic(topic)) == expected


@given(st.sets(_topics, max_size=12), st.sets(_topics, max_size=6), _filters)
def test_a_filter_finds_every_topic_that_it_matches(
    kept: set[str], dropped: set[str], topic_filter: str
) -> None:
    tree: TopicTree[str] = TopicTree()
    for key in kept | dropped:
        tree.put(key, key.upper())
    for key in dropped:
        tree.drop(key)
    expected = sorted((key, key.upper()) for key in kept - dropped if matches(key, topic_filter))
    assert sorted(tree.matched_by_filter(topic_filter)) == expected


@given(st.lists(_filters, min_size=1, max_size=12))
def test_a_tree_that_is_emptied_keeps_nothing(keys: list[str]) -> None:
    tree: TopicTree[str] = TopicTree()
    for key in keys:
        tree.put(key, key)
        assert tree.get(key) == key
    for key in keys:
        tree.drop(key)
        assert tree.get(key) is None
    tree.drop("never/there")
    assert not tree._root.branches
