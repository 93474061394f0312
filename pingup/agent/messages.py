"""What the agent says, and what it reads of the server's (contract, section 2); nothing is signed here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pingup.codec import MAX_BYTES, check_bounds, encode
from pingup.errors import Reason, Rejected
from pingup.model import CommandStatus, Host, Scan

MAX_ERROR = 1024
# What numbers and a signature add to a message, at most.
OVERHEAD = 256
_Moment = Annotated[datetime, Meta(tz=True)]


# --- up ----------------------------------------------------------------------------------------------


class Measurement(msgspec.Struct, frozen=True):
    """What one look at the machine gave: percent, and milliseconds; latency -1 stands for no answer."""

    cpu: float
    ram: float
    disk: float | None
    latency: float


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    agent_id: str
    timestamp: datetime


class _Status(_Envelope, frozen=True, omit_defaults=True):
    session: str
    status: str
    version: str | None = None
    interval: float | None = None


class _Metrics(_Envelope, frozen=True):
    metrics: Measurement
    status: str


class _Found(msgspec.Struct, frozen=True):
    hosts: tuple[Host, ...]
    duration: int


class _Discovery(_Envelope, frozen=True):
    discovery: _Found


class _Result(_Envelope, frozen=True, omit_defaults=True):
    command_id: str
    status: CommandStatus
    result: msgspec.Raw | UnsetType = UNSET


class _ConfigReport(_Envelope, frozen=True, omit_defaults=True):
    version: int
    applied: bool
    error: str | None = None


def birth(agent_id: str, at: datetime, session: str, version: str, interval: float) -> bytes:
    """The agent is there; `interval` is seconds between its samples."""
    return encode(_Status(agent_id, at, session, "online", version, interval))


def farewell(agent_id: str, at: datetime, session: str) -> bytes:
    """The agent is gone: said by itself when it stops, or by the broker as its will."""
    return encode(_Status(agent_id, at, session, "offline"))


def metrics(agent_id: str, at: datetime, measurement: Measurement) -> bytes:
    return encode(_Metrics(agent_id, at, measurement, "online"))


def discovery(scan: Scan) -> bytes:
    return encode(_Discovery(scan.agent_id, scan.timestamp, _Found(scan.hosts, scan.duration)))


def number(body: bytes, stream: str, seq: int, first: int) -> bytes:
    """The message with its place in the spool: `first` is the lowest number that is still held."""
    return body[:-1] + f',"stream":"{stream}","seq":{seq},"first":{first}}}'.encode()


def result(
    agent_id: str, at: datetime, command_id: str, status: CommandStatus, outcome: bytes | None
) -> bytes:
    """What has become of a command; `outcome` is JSON, at an end."""
    raw = UNSET if outcome is None else msgspec.Raw(outcome)
    return encode(_Result(agent_id, at, command_id, status, raw))


def config_report(agent_id: str, at: datetime, version: int, error: str | None) -> bytes:
    """Whether a configuration was applied: it was if there is no error."""
    return encode(_ConfigReport(agent_id, at, version, error is None, error and error[:MAX_ERROR]))


# --- down --------------------------------------------------------------------------------------------


class _Down(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    agent_id: str
    # A message with a timestamp is an agent's, however well it is signed.
    timestamp: msgspec.Raw | UnsetType = UNSET


class Order(_Down, frozen=True, kw_only=True):
    """A command as it arrives."""

    command_id: Annotated[str, Meta(min_length=1, max_length=64)]
    action: Annotated[str, Meta(max_length=64)]
    params: dict[str, Any] = {}
    issued_at: _Moment
    expires_at: _Moment


class ConfigOrder(_Down, frozen=True, kw_only=True):
    """A configuration as it arrives."""

    version: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    config: dict[str, Any]
    updated_at: _Moment


class Receipt(_Down, frozen=True, kw_only=True):
    """Every message of a stream up to `seq` is with the server, refused or declared lost."""

    stream: str
    seq: Annotated[int, Meta(ge=0)]
    updated_at: _Moment


class _ServerStatus(msgspec.Struct, frozen=True):
    status: Literal["online", "offline"]


_Any = TypeVar("_Any", bound=_Down)
_order = msgspec.json.Decoder(Order)
_config = msgspec.json.Decoder(ConfigOrder)
_receipt = msgspec.json.Decoder(Receipt)
_server_status = msgspec.json.Decoder(_ServerStatus)


def read_order(agent_id: str, payload: bytes) -> Order:
    """The command in a verified message.

    Raises:
        Rejected: it is none for this agent.
    """
    return _read(_order, agent_id, payload)


def read_config(agent_id: str, payload: bytes) -> ConfigOrder:
    """The configuration in a verified message.

    Raises:
        Rejected: it is none for this agent.
    """
    return _read(_config, agent_id, payload)


def read_receipt(agent_id: str, payload: bytes) -> Receipt:
    """The receipt in a verified message.

    Raises:
        Rejected: it is none for this agent.
    """
    return _read(_receipt, agent_id, payload)


def read_server_status(payload: bytes) -> bool | None:
    """Whether the server says that it is there; None when it says something else."""
    try:
        return _server_status.decode(payload).status == "online"
    except msgspec.DecodeError:
        return None


def _read(decoder: msgspec.json.Decoder[_Any], agent_id: str, payload: bytes) -> _Any:
    if len(payload) > MAX_BYTES:
        raise Rejected(Reason.TOO_LARGE, f"the message has {len(payload):,} bytes, {MAX_BYTES:,} are allowed")
    check_bounds(payload)
    try:
        message = decoder.decode(payload)
    except msgspec.ValidationError as problem:
        raise Rejected(Reason.INVALID, str(problem)) from problem
    except msgspec.DecodeError as problem:
        raise Rejected(Reason.MALFORMED, str(problem)) from problem
    if message.agent_id != agent_id:
        raise Rejected(Reason.WRONG_AGENT, f"the message is for {message.agent_id!r}")
    if message.timestamp is not UNSET:
        raise Rejected(Reason.INVALID, "a message with a timestamp is never from the server")
    return message
