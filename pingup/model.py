"""The types that travel between the rooms: frozen, without behaviour of their own.

Moments are aware datetimes in UTC, to the microsecond. Latency is in milliseconds, a scan's duration in
milliseconds, cpu, ram and disk in percent. A `rename="camel"` Struct is answered over REST as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from pingup.errors import Reason
from pingup.topics import Kind


class Inbound(msgspec.Struct, frozen=True, gc=False):
    """A message as it came in, before anybody looked into it.

    `agent_id` is what the topic or the credential says, not the payload. `kind` is what the topic or the
    route stands for. `source` is the topic or the route, for people who read about a refusal. `command_id` is
    the command that a route names, which a report must be about.
    """

    kind: Kind
    agent_id: str
    payload: bytes
    received_at: datetime
    source: str
    command_id: str | None = None


# --- telemetry -------------------------------------------------------------------------------------


class Sample(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """One measurement of an agent: a row of the table `metrics`, in the order of its columns.

    `latency` is whole milliseconds in int32, None for "no answer". `extra` holds the further metrics as the
    text of a JSON object sorted by name, None when there are none, so that equal values are equal texts.
    """

    agent_id: str
    timestamp: datetime
    cpu: float | None
    ram: float | None
    disk: float | None
    latency: int | None
    status: str
    extra: str | None = None


class Host(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One host that a scan found. `latency` is whole milliseconds, None for "no answer"."""

    ip: str
    latency: int | None
    ports: tuple[int, ...]
    mac: str | None = None
    hostname: str | None = None
    vendor: str | None = None


class Scan(msgspec.Struct, frozen=True, gc=False):
    """One discovery run of an agent; an empty one counts too. `duration` is whole milliseconds in int32."""

    agent_id: str
    timestamp: datetime
    duration: int
    hosts: tuple[Host, ...]


Record = Sample | Scan


class Numbering(msgspec.Struct, frozen=True, gc=False):
    """How an agent that keeps a spool has numbered a message (contract, section 4).

    `stream` names the spool, `seq` counts its messages from 1, `first` is the lowest that it still holds:
    what is below it will never be sent again.
    """

    stream: str
    seq: int
    first: int = 1


class Fate(StrEnum):
    """What became of a numbered message: nothing more is to be done about either."""

    STORED = "stored"
    REFUSED = "refused"


class Run(msgspec.Struct, frozen=True, gc=False):
    """Messages of one stream and one fate, numbered `low` to `high`, both included; it may be only one.

    `low_at` is the oldest moment in the message `low` and `high_at` the newest in `high`, by the agent's
    clock; of refused ones when they came. `first` is the highest that came with them, `received_at` when the
    last of them came by the server's clock, or something later of their stream.
    """

    agent_id: str
    stream: str
    fate: Fate
    low: int
    high: int
    first: int
    low_at: datetime
    high_at: datetime
    received_at: datetime


class Deposit(msgspec.Struct, frozen=True):
    """What one transaction brings to the store: records, and which numbered messages have come."""

    records: Sequence[Record]
    runs: Sequence[Run] = ()


class Order(StrEnum):
    """Which end of a history comes first."""

    DESC = "desc"
    ASC = "asc"


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a page of a history ended: the last moment shown and how many records of that moment were."""

    timestamp: datetime
    shown: int


class Span(msgspec.Struct, frozen=True):
    """A stretch of a history to read: `start` inclusive, `end` exclusive, at most `limit` records."""

    start: datetime | None = None
    end: datetime | None = None
    limit: int = 100
    order: Order = Order.DESC
    after: Place | None = None


# --- what agents say beside telemetry --------------------------------------------------------------


class TelemetryReport(msgspec.Struct, frozen=True, gc=False):
    """A decoded metrics message, metrics batch or scan. `sent_at` is the outer timestamp.

    `batch` tells a batch from a single sample; its samples are judged one by one for time and repeats.
    `numbering` is there when the message has both a stream and a seq.
    """

    agent_id: str
    sent_at: datetime
    records: tuple[Record, ...]
    batch: bool = False
    numbering: Numbering | None = None


class StatusReport(msgspec.Struct, frozen=True):
    """An agent's birth, or the will of the same session. `interval` is seconds between its messages."""

    agent_id: str
    sent_at: datetime
    session: str
    online: bool
    version: str | None = None
    interval: float | None = None


class CommandReport(msgspec.Struct, frozen=True):
    """What an agent says of a command. `result` is any JSON, kept as its text, or None."""

    agent_id: str
    sent_at: datetime
    command_id: str
    status: CommandStatus
    result: str | None = None


class ConfigReport(msgspec.Struct, frozen=True):
    """What an agent says of a configuration that it was given."""

    agent_id: str
    sent_at: datetime
    version: int
    applied: bool
    error: str | None = None


Message = TelemetryReport | StatusReport | CommandReport | ConfigReport


class SampleVerdict(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What became of one sample of a batch that was not stored: its index, why, in words."""

    index: int
    reason: Reason
    detail: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of a message that was not rejected: how many records were new, how many repeats.

    `batch` when it was a batch, of which some samples may be rejected and others not.
    """

    stored: int = 0
    duplicates: int = 0
    rejected: tuple[SampleVerdict, ...] = ()
    batch: bool = False


# --- the registry ----------------------------------------------------------------------------------


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


class Scope(IntEnum):
    """How far an API token reaches; a higher one includes the lower ones."""

    READ = 1
    COMMAND = 2
    ADMIN = 3


class ApiToken(msgspec.Struct, frozen=True, rename="camel"):
    """An API token as people see it; the token itself is shown once and kept as its SHA-256."""

    id: str
    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class Role(StrEnum):
    """Who somebody is to the broker and to REST."""

    AGENT = "agent"
    OPERATOR = "operator"
    SERVER = "server"


class Principal(msgspec.Struct, frozen=True):
    """Somebody who has proved who they are: an agent by its id, an operator by a token's id and scope.

    The server is one to brokers outside only; its id is its user name there.
    """

    role: Role
    id: str
    scope: Scope = Scope.READ
    expires_at: datetime | None = None


# --- accounts at a broker outside ------------------------------------------------------------------


class Account(msgspec.Struct, frozen=True):
    """A user of a broker outside: an agent, the server, or one API token.

    `fingerprint` changes with the password and tells nothing about it: 32 hexadecimal digits. The password is
    None when only its owner knows it.
    """

    username: str
    principal: Principal
    fingerprint: str
    password: str | None

    def __repr__(self) -> str:
        return f"Account({self.username!r}, {self.principal!r}, password=…)"


class Obstacle(StrEnum):
    """Why an account can't be brought to a broker. The values are shown to users."""

    PASSWORD_UNKNOWN = "password_unknown"  # noqa: S105 - not a password
    NAME_TAKEN = "name_taken"
    DISABLED = "disabled"


class Unsettled(msgspec.Struct, frozen=True):
    """An account that could not be brought to a broker, and why."""

    username: str
    obstacle: Obstacle


class Reconciled(msgspec.Struct, frozen=True):
    """What was done to a broker's accounts, by user name; all empty when they were as they should be."""

    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unsettled: tuple[Unsettled, ...] = ()
