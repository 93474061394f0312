"""Who may use which topic and which client id (contract, section 3): for every kind of broker."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from pingup.model import Principal, Role, Scope
from pingup.topics import ROOT, SYS_STATUS, Kind, covers, matches, overlap, parse_up

SERVER_USER = "server"
SERVER_CLIENT_ID = SERVER_USER
OPERATOR_USER = "operator"

# The longest topic of the contract has five levels; a deeper filter could only cost memory.
MAX_FILTER_LEVELS = 16


def publishable(principal: Principal) -> tuple[str, ...]:
    """Filters for all topics that this somebody may publish on, by hand or by a will."""
    match principal.role:
        case Role.AGENT:
            return (f"{ROOT}/up/{principal.id}/#",)
        case Role.SERVER:
            return f"{ROOT}/down/#", f"{ROOT}/live/#", f"{ROOT}/sys/#"
        case Role.OPERATOR:
            return ()


def receivable(principal: Principal) -> tuple[str, ...]:
    """Filters for all topics whose messages may reach this somebody, whatever was subscribed to."""
    match principal.role:
        case Role.AGENT:
            return f"{ROOT}/down/{principal.id}/#", SYS_STATUS
        case Role.SERVER:
            return (f"{ROOT}/up/#",)
        case Role.OPERATOR if principal.scope is Scope.ADMIN:
            return ("pingup/#",)
        case Role.OPERATOR if principal.scope is Scope.METRICS:
            return ()
        case Role.OPERATOR:
            return f"{ROOT}/live/#", f"{ROOT}/sys/#"


def may_publish(principal: Principal, topic: str) -> bool:
    """Whether this somebody may publish on the topic, by hand or by a will."""
    return any(matches(topic, permitted) for permitted in publishable(principal))


def may_retain(topic: str) -> bool:
    """Whether the retain flag counts for what agents publish here: births and wills only."""
    named = parse_up(topic)
    return named is not None and named[1] is Kind.STATUS


def may_receive(principal: Principal, topic: str) -> bool:
    """Whether a message on the topic may reach this somebody, whatever was subscribed to."""
    return any(matches(topic, permitted) for permitted in receivable(principal))


def may_subscribe(principal: Principal, topic_filter: str) -> bool:
    """Whether the filter is well formed and can match anything that may be received.

    It may match more than that: every delivery is judged by itself.
    """
    return is_filter(topic_filter) and any(
        overlap(topic_filter, permitted) for permitted in receivable(principal)
    )


def may_subscribe_unfiltered(principal: Principal, topic_filter: str) -> bool:
    """Whether the filter is well formed and matches nothing but what may be received.

    For brokers that judge a subscription once and no delivery. A filter that is covered only by several
    permitted ones together is denied too.
    """
    return is_filter(topic_filter) and any(
        covers(permitted, topic_filter) for permitted in receivable(principal)
    )


def is_filter(text: str) -> bool:
    """Whether `text` is a subscription's filter (MQTT 3.1.1, section 4.7) that is granted at all."""
    levels = text.split("/")
    if not text or text.startswith("$") or len(levels) > MAX_FILTER_LEVELS:
        return False
    if "#" in text and ("#" in "".join(levels[:-1]) or levels[-1] != "#"):
        return False
    return all(level == "+" for level in levels if "+" in level)


def is_topic(text: str) -> bool:
    """Whether `text` may name the topic of a message (MQTT 3.1.1, section 4.7)."""
    return bool(text) and "+" not in text and "#" not in text


def username_of(principal: Principal) -> str:
    """The MQTT user name at a broker outside, where each API token is a user of its own."""
    return f"{OPERATOR_USER}.{principal.id}" if principal.role is Role.OPERATOR else principal.id


def assign_client_id(principal: Principal, wanted: str, is_agent: Callable[[str], bool]) -> str | None:
    """The client id that a connection gets, or None when it may not have the one it wants.

    An agent and the server are pinned to their own ids. An operator may have any that is no registered
    agent's and not the server's, and gets a random one for an empty wish.
    """
    if principal.role is not Role.OPERATOR:
        return principal.id if wanted in ("", principal.id) else None
    if not wanted:
        return f"{OPERATOR_USER}.{secrets.token_hex(8)}"
    return None if wanted == SERVER_CLIENT_ID or is_agent(wanted) else wanted


def is_same_client(one: Principal, other: Principal) -> bool:
    """Whether a session that the one has kept may be taken up by the other."""
    return (one.role, one.id, one.scope) == (other.role, other.id, other.scope)
