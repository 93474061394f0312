"""Who may do what: the table of the contract, section 3, written out by hand; and every topic there is."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from pingup.topics import matches


class Role(Enum):
    """A row of the table. `SELF` and `OTHER` are two agents."""

    SELF = "an agent"
    OTHER = "another agent"
    SERVER = "the server"
    READ = "an operator with scope read"
    COMMAND = "an operator with scope command"
    ADMIN = "an operator with scope admin"


AGENTS = (Role.SELF, Role.OTHER)
OPERATORS = (Role.READ, Role.COMMAND, Role.ADMIN)
CLIENTS = (*AGENTS, *OPERATORS)


class Row(NamedTuple):
    """Topic filters; {id} is the agent's own id."""

    publishes: tuple[str, ...]
    receives: tuple[str, ...]


_AGENT = Row(("pingup/v1/up/{id}/#",), ("pingup/v1/down/{id}/#", "pingup/v1/sys/status"))
_OPERATOR = Row((), ("pingup/v1/live/#", "pingup/v1/sys/#"))

TABLE: dict[Role, Row] = {
    Role.SELF: _AGENT,
    Role.OTHER: _AGENT,
    Role.SERVER: Row(
        ("pingup/v1/down/#", "pingup/v1/live/#", "pingup/v1/sys/#"),
        ("pingup/v1/up/#",),
    ),
    Role.READ: _OPERATOR,
    Role.COMMAND: _OPERATOR,
    Role.ADMIN: Row((), ("pingup/#",)),
}

_BY_AGENT = (
    "pingup/v1/up/{id}/metrics",
    "pingup/v1/up/{id}/discovery",
    "pingup/v1/up/{id}/status",
    "pingup/v1/up/{id}/results",
    "pingup/v1/up/{id}/config",
    "pingup/v1/down/{id}/commands",
    "pingup/v1/down/{id}/config",
    "pingup/v1/down/{id}/receipts",
    "pingup/v1/live/{id}/metrics",
    "pingup/v1/live/{id}/discovery",
    "pingup/v1/live/{id}/presence",
    "pingup/v1/live/{id}/commands",
)
_OF_THE_SYSTEM = ("pingup/v1/sys/status", "pingup/v1/sys/rejects")


def topics_of(agent_ids: Iterable[str]) -> tuple[str, ...]:
    """Every topic of the contract, for these agents."""
    return (*(topic.format(id=name) for name in agent_ids for topic in _BY_AGENT), *_OF_THE_SYSTEM)


def nobodys_topics(agent_id: str, users: Iterable[str]) -> tuple[str, ...]:
    """Topics on which nobody may publish, among them those that a broker's patterns might open by mistake."""
    return (
        *(f"pingup/v1/up/{user}/metrics" for user in ("server", "operator", *users)),
        f"pingup/v1/up/{agent_id}x/metrics",
        f"pingup/v2/up/{agent_id}/metrics",
        "pingup/v1/up",
        "pingup/v1/other",
        "pingup",
    )


def may_publish(role: Role, own_id: str, topic: str) -> bool:
    return _is_among(topic, TABLE[role].publishes, own_id)


def may_receive(role: Role, own_id: str, topic: str) -> bool:
    return _is_among(topic, TABLE[role].receives, own_id)


def filters_of(role: Role, own_id: str) -> tuple[str, ...]:
    """The filters for all that a role may receive."""
    return tuple(one.format(id=own_id) for one in TABLE[role].receives)


def _is_among(topic: str, filters: Iterable[str], own_id: str) -> bool:
    return any(matches(topic, one.format(id=own_id)) for one in filters)
