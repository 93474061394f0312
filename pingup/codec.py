"""Bytes to model and back: sizes, depth, numbers and types of everything that agents send.

Whatever is wrong with a message becomes one `Rejected` that says what and where. Nothing here asks the
time or knows who is who; signatures are checked before (contract, section 2).
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pingup.errors import Reason, Rejected
from pingup.model import (
    CommandReport,
    CommandStatus,
    ConfigReport,
    Host,
    Message,
    Numbering,
    Sample,
    Scan,
    StatusReport,
    TelemetryReport,
)
from pingup.topics import Kind

MAX_BYTES = 64 * 1024
MAX_BULK_BYTES = 256 * 1024
MAX_DEPTH = 8
MAX_METRICS = 64
MAX_METRIC_NAME = 64
# DuckDB unpacks 2,048 rows at a time, and with wider ones the memory that it is given does not suffice. ASCII
# names never get there.
MAX_EXTRA_BYTES = 6 * 1024
MAX_SAMPLES = 1000
MAX_ID = 64

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MIN, INT64_MAX, UINT64_MAX = -(2**63), 2**63 - 1, 2**64 - 1
_COLUMNS = ("cpu", "ram", "disk", "latency")
_RESERVED_METRICS = frozenset({"timestamp", "status", "agentId"})

# --- what the messages look like -------------------------------------------------------------------

Moment = Annotated[datetime, Meta(tz=True)]
Number = int | float
Word = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,32}\Z")]
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Text = Annotated[str, Meta(max_length=1024)]
Counter = Annotated[int, Meta(ge=1, le=INT64_MAX)]


class _Envelope(msgspec.Struct, rename="camel", frozen=True):
    agent_id: str
    timestamp: Moment


class _Numbered(_Envelope, kw_only=True, frozen=True):
    """What a sender that keeps a spool adds (contract, section 4)."""

    seq: Counter | UnsetType = UNSET
    stream: Id | UnsetType = UNSET
    first: Counter = 1


class _Numbers(msgspec.Struct, frozen=True):
    """The same members of a message that may be wrong in every other way."""

    seq: Counter
    stream: Id
    first: Any = 1


class _BatchedSample(msgspec.Struct, frozen=True):
    timestamp: Moment
    metrics: dict[str, Number | None]
    status: Word


class _Metrics(_Numbered, kw_only=True, frozen=True):
    metrics: dict[str, Number | None] | UnsetType = UNSET
    status: Word | UnsetType = UNSET
    samples: Annotated[list[_BatchedSample], Meta(min_length=1, max_length=MAX_SAMPLES)] | UnsetType = UNSET


class _Host(msgspec.Struct, frozen=True):
    ip: Annotated[str, Meta(max_length=45)]
    latency: Number | None
    ports: list[Annotated[int, Meta(ge=0, le=65535)]]
    mac: Annotated[str, Meta(max_length=64)] | None = None
    hostname: Annotated[str, Meta(max_length=255)] | None = None
    vendor: Annotated[str, Meta(max_length=255)] | None = None


class _ScanBody(msgspec.Struct, frozen=True):
    hosts: list[_Host]
    duration: Number


class _Discovery(_Numbered, kw_only=True, frozen=True):
    discovery: _ScanBody


class _Status(_Envelope, kw_only=True, frozen=True):
    session: Id
    status: Annotated[str, Meta(pattern=r"^(online|offline)\Z")]
    version: Text | None = None
    interval: Annotated[float, Meta(gt=0, le=86400)] | None = None


class _Result(_Envelope, kw_only=True, frozen=True):
    command_id: Id
    status: Annotated[str, Meta(pattern=r"^(acknowledged|running|completed|failed|rejected)\Z")]
    result: msgspec.Raw | UnsetType = UNSET


class _ConfigReport(_Envelope, kw_only=True, frozen=True):
    version: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    applied: bool
    error: Text | None = None


T = TypeVar("T")
_numbers = msgspec.json.Decoder(_Numbers)
_metrics = msgspec.json.Decoder(_Metrics)
_discovery = msgspec.json.Decoder(_Discovery)
_status = msgspec.json.Decoder(_Status)
_result = msgspec.json.Decoder(_Result)
_config = msgspec.json.Decoder(_ConfigReport)
_encoder = msgspec.json.Encoder()


# --- bytes → model ---------------------------------------------------------------------------------


def decode(kind: Kind, payload: bytes) -> Message:
    """The message that the bytes stand for.

    Raises:
        Rejected: `too_large`, `too_deep`, `malformed` or `invalid`, with the place in words.
    """
    check_size(kind, payload)
    check_bounds(payload)
    match kind:
        case Kind.METRICS:
            return _read_metrics(_parse(_metrics, payload), len(payload))
        case Kind.DISCOVERY:
            return _read_discovery(_parse(_discovery, payload))
        case Kind.STATUS:
            return _read_status(_parse(_status, payload))
        case Kind.RESULTS:
            return _read_result(_parse(_result, payload))
        case Kind.CONFIG:
            return _read_config_report(_parse(_config, payload))


def check_size(kind: Kind, payload: bytes) -> None:
    """Refuse what is larger than any message of this kind may be, before anything else is done with it."""
    limit = MAX_BULK_BYTES if kind in (Kind.METRICS, Kind.DISCOVERY) else MAX_BYTES
    if len(payload) > limit:
        raise _too_large(len(payload), limit)


def _too_large(size: int, limit: int) -> Rejected:
    return Rejected(Reason.TOO_LARGE, f"the message has {size:,} bytes, {limit:,} are allowed")


def _parse(decoder: msgspec.json.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except msgspec.ValidationError as problem:
        raise Rejected(Reason.INVALID, str(problem)) from problem
    except msgspec.DecodeError as problem:
        raise Rejected(Reason.MALFORMED, str(problem)) from problem


def _read_metrics(message: _Metrics, size: int) -> TelemetryReport:
    sent_at = _utc(message.timestamp)
    agent_id = message.agent_id
    if message.samples is UNSET:
        if message.metrics is UNSET or message.status is UNSET:
            missing = "metrics" if message.metrics is UNSET else "status"
            raise Rejected(Reason.INVALID, f"Object missing required field `{missing}`")
        if size > MAX_BYTES:
            raise _too_large(size, MAX_BYTES)
        sample = _read_sample(agent_id, sent_at, message.metrics, message.status, "$.metrics")
        return TelemetryReport(agent_id, sent_at, (sample,), numbering=_read_numbering(message))
    if message.metrics is not UNSET:
        raise Rejected(Reason.INVALID, "a message has either `metrics` or `samples`, this one has both")
    samples = tuple(
        _read_sample(agent_id, _utc(item.timestamp), item.metrics, item.status, f"$.samples[{index}].metrics")
        for index, item in enumerate(message.samples)
    )
    return TelemetryReport(agent_id, sent_at, samples, batch=True, numbering=_read_numbering(message))


def _read_numbering(message: _Numbered) -> Numbering | None:
    if message.stream is UNSET or message.seq is UNSET:
        return None
    return Numbering(message.stream, message.seq, message.first)


def _read_sample(
    agent_id: str, timestamp: datetime, metrics: dict[str, Number | None], status: str, where: str
) -> Sample:
    numbers = {name: value for name, value in metrics.items() if value is not None}
    if not numbers:
        raise Rejected(Reason.INVALID, f"at least one metric must be a number - at `{where}`")
    cpu, ram, disk = (_float(numbers.pop(name, None)) for name in _COLUMNS[:3])
    latency = _latency(numbers.pop("latency", None), f"{where}.latency")
    return Sample(agent_id, timestamp, cpu, ram, disk, latency, status, _read_extra(numbers, where))


def _read_extra(numbers: dict[str, Number], where: str) -> str | None:
    if not numbers:
        return None
    if len(numbers) > MAX_METRICS:
        count = f"{len(numbers)} further metrics, at most {MAX_METRICS} are allowed"
        raise Rejected(Reason.INVALID, f"{count} - at `{where}`")
    for name in numbers:
        if not 1 <= len(name) <= MAX_METRIC_NAME:
            raise Rejected(
                Reason.INVALID, f"a metric's name has 1 to {MAX_METRIC_NAME} characters - at `{where}`"
            )
        if name in _RESERVED_METRICS:
            raise Rejected(Reason.INVALID, f"no metric may be named `{name}` - at `{where}`")
    text = _encoder.encode({name: float(numbers[name]) for name in sorted(numbers)})
    if len(text) > MAX_EXTRA_BYTES:
        size = f"further metrics of {len(text):,} bytes, at most {MAX_EXTRA_BYTES:,} are allowed"
        raise Rejected(Reason.INVALID, f"{size} - at `{where}`")
    return text.decode()


def _read_discovery(message: _Discovery) -> TelemetryReport:
    sent_at = _utc(message.timestamp)
    duration = _int32(message.discovery.duration, "$.discovery.duration")
    if duration < 0:
        raise Rejected(Reason.INVALID, "a duration is not negative - at `$.discovery.duration`")
    hosts = tuple(_read_host(host, index) for index, host in enumerate(message.discovery.hosts))
    scan = Scan(message.agent_id, sent_at, duration, hosts)
    return TelemetryReport(message.agent_id, sent_at, (scan,), numbering=_read_numbering(message))


def _read_host(host: _Host, index: int) -> Host:
    where = f"$.discovery.hosts[{index}]"
    try:
        address = str(ip_address(host.ip))
    except ValueError as problem:
        raise Rejected(Reason.INVALID, f"`{host.ip}` is not an IP address - at `{where}.ip`") from problem
    latency = _latency(host.latency, f"{where}.latency")
    return Host(address, latency, tuple(host.ports), host.mac, host.hostname, host.vendor)


def _read_status(message: _Status) -> StatusReport:
    return StatusReport(
        message.agent_id,
        _utc(message.timestamp),
        message.session,
        message.status == "online",
        message.version,
        message.interval,
    )


def _read_result(message: _Result) -> CommandReport:
    result = None if message.result is UNSET else bytes(message.result).decode()
    status = CommandStatus(message.status)
    return CommandReport(message.agent_id, _utc(message.timestamp), message.command_id, status, result)


def _read_config_report(message: _ConfigReport) -> ConfigReport:
    return ConfigReport(
        message.agent_id, _utc(message.timestamp), message.version, message.applied, message.error
    )


def numbering_of(payload: bytes) -> Numbering | None:
    """The numbers of a message that was refused after it was verified; None where they can't be made out."""
    try:
        numbers = _numbers.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    first = numbers.first
    # One that makes no sense gives nothing up.
    is_counter = type(first) is int and 1 <= first <= INT64_MAX
    return Numbering(numbers.stream, numbers.seq, first if is_counter else 1)


# --- numbers and moments ---------------------------------------------------------------------------


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as problem:
        raise Rejected(Reason.INVALID, "the timestamp is outside of the years 1 to 9999 in UTC") from problem


def _float(value: Number | None) -> float | None:
    return None if value is None else float(value)


def _latency(value: Number | None, where: str) -> int | None:
    """Whole milliseconds; below zero means "no answer"."""
    if value is None or value < 0:
        return None
    return _int32(value, where)


def _int32(value: Number, where: str) -> int:
    # Halves go up, as people round; the built-in rounds them to even.
    whole = math.floor(value + 0.5) if isinstance(value, float) else value
    if not INT32_MIN <= whole <= INT32_MAX:
        raise Rejected(Reason.INVALID, f"{value} is beyond 32 bits - at `{where}`")
    return whole


# --- bounds that hold for every member, known or not ------------------------------------------------

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(rb"[{}\[\]]")
# What a number must have at least, to be beyond 64 bits or to overflow to infinity.
_SUSPICIOUS = re.compile(rb"[0-9]{19}|[eE]\+?[0-9]{3}")
_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def check_bounds(payload: bytes) -> None:
    """Refuse text that is no UTF-8, nesting deeper than 8 and numbers beyond their bounds, anywhere.

    The parser would recurse on deep nesting and skip over what it does not know, so this looks first.
    """
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError as problem:
            raise Rejected(Reason.MALFORMED, f"the message is not UTF-8 (byte {problem.start})") from problem
    may_be_deep = payload.count(b"{") + payload.count(b"[") > MAX_DEPTH
    if may_be_deep or _SUSPICIOUS.search(payload):
        bare = _STRING.sub(b'""', payload)
        _check_depth(bare)
        _check_numbers(bare)


def _check_depth(bare: bytes) -> None:
    depth = 0
    for bracket in _BRACKET.findall(bare):
        depth += 1 if bracket in b"{[" else -1
        if depth > MAX_DEPTH:
            raise Rejected(Reason.TOO_DEEP, f"the message is nested deeper than {MAX_DEPTH} levels")


def _check_numbers(bare: bytes) -> None:
    for number in _NUMBER.finditer(bare):
        whole = number[1] is None and number[2] is None
        if whole and (len(number[0]) > 20 or not INT64_MIN <= int(number[0]) <= UINT64_MAX):
            raise Rejected(Reason.INVALID, f"the integer {_short(number[0])} is beyond 64 bits")
        if not whole and math.isinf(float(number[0])):
            raise Rejected(Reason.INVALID, f"the number {_short(number[0])} is too large")


def _short(number: bytes) -> str:
    text = number.decode()
    return text if len(text) <= 24 else f"{text[:20]}…"


# --- model → bytes ---------------------------------------------------------------------------------


def encode(value: Any) -> bytes:
    """Any of the model's types, or plain data, as JSON. Moments come out as RFC 3339 in UTC with `Z`."""
    return _encoder.encode(value)


def sample_json(sample: Sample) -> dict[str, Any]:
    """A sample as people get it: its columns and its further metrics side by side."""
    columns: dict[str, Any] = {
        "timestamp": sample.timestamp,
        "cpu": sample.cpu,
        "ram": sample.ram,
        "disk": sample.disk,
        "latency": sample.latency,
        "status": sample.status,
    }
    if sample.extra is not None:
        columns.update(msgspec.json.decode(sample.extra))
    return columns


def scan_json(scan: Scan) -> dict[str, Any]:
    """A scan as people get it."""
    return {"timestamp": scan.timestamp, "duration": scan.duration, "hosts": scan.hosts}
