"""A tree of topics or filters by level, so that a look-up costs levels and not entries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Node(Generic[T]):
    __slots__ = ("branches", "value")

    def __init__(self) -> None:
        self.branches: dict[str, _Node[T]] = {}
        self.value: T | None = None


class TopicTree(Generic[T]):
    """Values by topic, found by a filter, or values by filter, found by a topic.

    The first level gets no special meaning here: whoever fills the tree keeps topics with `$` out.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def get(self, key: str) -> T | None:
        """The value under exactly this topic or filter."""
        node = self._root
        for level in key.split("/"):
            branch = node.branches.get(level)
            if branch is None:
                return None
            node = branch
        return node.value

    def put(self, key: str, value: T) -> None:
        """Set the value under this topic or filter."""
        node = self._root
        for level in key.split("/"):
            node = node.branches.setdefault(level, _Node())
        node.value = value

    def drop(self, key: str) -> None:
        """Forget the value under this topic or filter, and the branches that led to it alone."""
        path = [self._root]
        levels = key.split("/")
        for level in levels:
            branch = path[-1].branches.get(level)
            if branch is None:
                return
            path.append(branch)
        path[-1].value = None
        for parent, level, node in zip(reversed(path[:-1]), reversed(levels), reversed(path), strict=False):
            if node.branches or node.value is not None:
                return
            del parent.branches[level]

    def matched_by_topic(self, topic: str) -> list[T]:
        """The values of all filters that match the topic."""
        found: list[_Node[T]] = []
        nodes = [self._root]
        for level in topic.split("/"):
            found.extend(node.branches["#"] for node in nodes if "#" in node.branches)
            nodes = [node.branches[name] for node in nodes for name in (level, "+") if name in node.branches]
        found.extend(nodes)
        # `a/#` matches `a` itself too.
        found.extend(node.branches["#"] for node in nodes if "#" in node.branches)
        return [node.value for node in found if node.value is not None]

    def matched_by_filter(self, topic_filter: str) -> Iterator[tuple[str, T]]:
        """All topics that the filter matches, with their values."""
        places: list[tuple[tuple[str, ...], _Node[T]]] = [((), self._root)]
        for level in topic_filter.split("/"):
            if level == "#":
                places = list(_with_all_below(places))
                break
            places = [
                ((*path, name), branch)
                for path, node in places
                for name, branch in (
                    node.branches.items() if level == "+" else _only(node.branches.get(level), level)
                )
            ]
        for path, node in places:
            if node.value is not None:
                yield "/".join(path), node.value


def _only(branch: _Node[T] | None, name: str) -> tuple[tuple[str, _Node[T]], ...]:
    return () if branch is None else ((name, branch),)


def _with_all_below(
    places: list[tuple[tuple[str, ...], _Node[T]]],
) -> Iterator[tuple[tuple[str, ...], _Node[T]]]:
    while places:
        path, node = places.pop()
        yield path, node
        places.extend(((*path, name), branch) for name, branch in node.branches.items())
