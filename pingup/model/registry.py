"""What the registry keeps of agents: themselves, their keys, commands and configurations."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from pingup.discreet import without


class Algorithm(StrEnum):
    """How an agent's messages are signed; a property of its key record, never of a message."""

    HMAC_SHA256 = "hmac-sha256"
    ED25519 = "ed25519"


class Presence(StrEnum):
    """Whether an agent is there, as far as the server knows."""

    ONLINE = "online"
    OFFLINE = "offline"


class Agent(msgspec.Struct, frozen=True, rename="camel"):
    """An agent as people see it. `last_seen` is by the server's clock."""

    id: str
    name: str | None
    status: Presence
    last_seen: datetime | None
    metadata: dict[str, Any]
    tags: tuple[str, ...]
    algorithm: Algorithm
    created_at: datetime


class AgentKey(msgspec.Struct, frozen=True):
    """What an agent proves itself with. `secret` is sealed in the registry and open in memory.

    `token_hash` is the SHA-256 of the agent's token. The token itself follows from a secret; that of an agent
    with a public key is sealed in the registry too (None if it was registered before Pingup kept it).
    """

    agent_id: str
    algorithm: Algorithm
    secret: str | None
    public_key: bytes | None
    token_hash: bytes
    token: str | None = None

    def __repr__(self) -> str:
        return without(self, "secret", "token")


class CommandStatus(StrEnum):
    """The states of a command; `pingup.services.commands` holds the table of transitions."""

    PENDING = "pending"
    SENT = "sent"
    ACKNOWLEDGED = "acknowledged"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class StatusChange(msgspec.Struct, frozen=True):
    """One step of a command's life."""

    status: CommandStatus
    at: datetime


class Command(msgspec.Struct, frozen=True, rename="camel"):
    """A command to an agent. `signed` is the exact text under `signature`; `result` is any JSON or null."""

    command_id: str
    agent_id: str
    action: str
    params: dict[str, Any]
    status: CommandStatus
    result: msgspec.Raw
    created_at: datetime
    expires_at: datetime
    signed: str
    signature: str
    history: tuple[StatusChange, ...] = ()


class ConfigVersion(msgspec.Struct, frozen=True, rename="camel"):
    """One version of an agent's configuration; version 0 is the empty one that every agent starts with."""

    agent_id: str
    version: int
    config: dict[str, Any]
    updated_at: datetime | None


class ReportedConfig(msgspec.Struct, frozen=True, rename="camel"):
    """The newest configuration report of an agent."""

    version: int
    applied: bool
    error: str | None
    at: datetime
