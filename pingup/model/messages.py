"""What agents say: as it came in, decoded, and what became of it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from pingup.errors import Reason
from pingup.model.registry import CommandStatus
from pingup.model.telemetry import Numbering, Record
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
