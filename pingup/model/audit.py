"""Who did what, when and from where; and messages that were refused."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from pingup.errors import Reason


class ActorKind(StrEnum):
    """What somebody acted as. `local` is a command on the server's own machine."""

    TOKEN = "token"  # noqa: S105 - not a password
    ENROLMENT = "enrolment"
    AGENT = "agent"
    LOCAL = "local"
    SERVER = "server"


class Actor(msgspec.Struct, frozen=True):
    """Who acts: `id` of a token or an agent, and the address that the call came from."""

    kind: ActorKind
    id: str
    address: str | None = None


class Action(StrEnum):
    """What was done. The values are shown to users and never change their meaning."""

    AGENT_CREATED = "agent.created"
    AGENT_CHANGED = "agent.changed"
    AGENT_REMOVED = "agent.removed"
    AGENT_ENROLLED = "agent.enrolled"
    AGENT_APPROVED = "agent.approved"
    AGENT_ROTATED = "agent.rotated"
    AGENT_PROVEN = "agent.proven"
    TOKEN_CREATED = "token.created"  # noqa: S105 - not a password
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - not a password
    COMMAND_CREATED = "command.created"
    COMMAND_CANCELLED = "command.cancelled"
    CONFIG_CHANGED = "config.changed"
    MASTER_KEY_ROTATED = "master_key.rotated"


class AuditEntry(msgspec.Struct, frozen=True):
    """One thing that was done: `target` names the agent, token or command; `detail` holds no secret."""

    at: datetime
    actor: Actor
    action: Action
    target: str
    detail: dict[str, Any] = {}


class Refusal(msgspec.Struct, frozen=True):
    """A message that was not taken. `source` is its topic or route; of `size` bytes `head` are the first.

    `agent_id` is what the topic or the credential says, None where they say nothing.
    """

    at: datetime
    agent_id: str | None
    source: str
    reason: Reason
    detail: str
    size: int
    head: bytes
