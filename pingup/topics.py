"""The only topic strings (contract, section 3).

pingup/v1/up/{agentId}/{kind}      agent → server
pingup/v1/down/{agentId}/{what}    server → agent
pingup/v1/live/{agentId}/{what}    server → people and tools
pingup/v1/sys/{what}               server → everybody
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

ROOT = "pingup/v1"
SYS_STATUS = f"{ROOT}/sys/status"
SYS_REJECTS = f"{ROOT}/sys/rejects"

AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED_IDS = frozenset({"server", "operator", "pending", "latest", "hosts", "history", "bin"})


class Kind(StrEnum):
    """What an agent sends; the last level of its topic."""

    METRICS = "metrics"
    DISCOVERY = "discovery"
    STATUS = "status"
    RESULTS = "results"
    CONFIG = "config"


class Live(StrEnum):
    """What people may watch; the last level of a live topic."""

    METRICS = "metrics"
    DISCOVERY = "discovery"
    PRESENCE = "presence"
    COMMANDS = "commands"


_KINDS = {kind.value: kind for kind in Kind}
_UP = f"{ROOT}/up/"
UP_ALL = f"{_UP}#"
_LONGEST_UP = len(_UP) + 64 + 1 + max(map(len, Kind))
_LIVE = f"{ROOT}/live/"
_METRICS = f"/{Live.METRICS.value}"


def is_agent_id(text: str) -> bool:
    """Whether `text` may name an agent: nothing else ever gets into a topic, a path or a query."""
    return (
        AGENT_ID.fullmatch(text) is not None and text not in RESERVED_IDS and not text.startswith("operator.")
    )


def up(agent_id: str, kind: Kind) -> str:
    return f"{_UP}{agent_id}/{kind.value}"


def down_all(agent_id: str) -> str:
    """The filter for everything that is said to an agent."""
    return f"{ROOT}/down/{agent_id}/#"


def down_commands(agent_id: str) -> str:
    return f"{ROOT}/down/{agent_id}/commands"


def down_config(agent_id: str) -> str:
    return f"{ROOT}/down/{agent_id}/config"


def down_receipts(agent_id: str) -> str:
    return f"{ROOT}/down/{agent_id}/receipts"


def live(agent_id: str, what: Live) -> str:
    return f"{ROOT}/live/{agent_id}/{what.value}"


def is_live_metrics(topic: str) -> bool:
    """Whether samples are shown on this topic."""
    return topic.startswith(_LIVE) and topic.endswith(_METRICS)


def parse_up(topic: str) -> tuple[str, Kind] | None:
    """The agent and the kind that an `up` topic names, or None if it is none of ours."""
    return _parse_up(topic) if len(topic) <= _LONGEST_UP else None


@lru_cache(maxsize=16_384)
def _parse_up(topic: str) -> tuple[str, Kind] | None:
    if not topic.startswith(_UP):
        return None
    agent_id, _, last = topic[len(_UP) :].partition("/")
    kind = _KINDS.get(last)
    if kind is None or not is_agent_id(agent_id):
        return None
    return agent_id, kind


def owner_of(topic: str) -> str | None:
    """The agent whose place below `up` a topic lies in, whatever kind it names; None if it is nobody's."""
    if not topic.startswith(_UP):
        return None
    agent_id = topic[len(_UP) :].partition("/")[0]
    return agent_id if is_agent_id(agent_id) else None


def matches(topic: str, topic_filter: str) -> bool:
    """Whether a topic name matches a subscription's filter (MQTT 3.1.1 and 5, section 4.7)."""
    if topic.startswith("$") and topic_filter[:1] in ("#", "+"):
        return False
    levels = topic.split("/")
    wanted = topic_filter.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(levels) == len(wanted)


def overlap(one: str, other: str) -> bool:
    """Whether some topic name matches both filters."""
    left, right = one.split("/"), other.split("/")
    for a, b in zip(left, right, strict=False):
        if "#" in (a, b):
            return True
        if a != b and "+" not in (a, b):
            return False
    longer, shorter = (left, right) if len(left) > len(right) else (right, left)
    # `a/#` matches `a` itself too, so one more level is allowed when it is `#`.
    return len(longer) == len(shorter) or longer[len(shorter)] == "#"


def covers(wider: str, narrower: str) -> bool:
    """Whether every topic name that matches the narrower filter matches the wider one too.

    As with `matches`, a filter that begins with a wildcard has nothing to do with names that begin with `$`.
    """
    if narrower.startswith("$") and wider[:1] in ("#", "+"):
        return False
    left = wider.split("/")
    # Every name has a level, so `#` alone is `+/#`.
    right = ["+", "#"] if narrower == "#" else narrower.split("/")
    for index, level in enumerate(left):
        if level == "#":
            return True
        if index >= len(right) or right[index] == "#" or level not in ("+", right[index]):
            return False
    return len(left) == len(right)
