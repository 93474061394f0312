"""Bytes → model."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TypeVar

import msgspec
from msgspec import UNSET

from pingup.codec import forms
from pingup.codec.bounds import check_bounds
from pingup.codec.limits import INT64_MAX, MAX_BULK_BYTES, MAX_BYTES
from pingup.codec.numbers import int32, read_latency, utc
from pingup.codec.samples import parse_plain, read_metrics, read_numbering, too_large
from pingup.errors import Reason, Rejected
from pingup.model import (
    CommandReport,
    CommandStatus,
    ConfigReport,
    Host,
    Message,
    Numbering,
    Scan,
    StatusReport,
    TelemetryReport,
)
from pingup.topics import Kind

T = TypeVar("T")
# To look a member of an enumeration up costs more than most of what is done with a message.
_METRICS = Kind.METRICS
_BULKY = (Kind.METRICS, Kind.DISCOVERY)
_numbers = msgspec.json.Decoder(forms.Numbers)
_metrics = msgspec.json.Decoder(forms.Metrics)
_discovery = msgspec.json.Decoder(forms.Discovery)
_status = msgspec.json.Decoder(forms.Status)
_result = msgspec.json.Decoder(forms.Result)
_config = msgspec.json.Decoder(forms.ConfigReport)


def decode(kind: Kind, payload: bytes) -> Message:
    """The message that the bytes stand for.

    Raises:
        Rejected: `too_large`, `too_deep`, `malformed` or `invalid`, with the place in words.
    """
    check_size(kind, payload)
    if kind is _METRICS and (plain := parse_plain(payload)) is not None:
        try:  # contextlib.suppress costs as much as reading the sample
            return read_metrics(plain, len(payload))
        except Rejected:
            pass  # the general way has the words
    check_bounds(payload)
    match kind:
        case Kind.METRICS:
            return read_metrics(_parse(_metrics, payload), len(payload))
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
    limit = MAX_BULK_BYTES if kind in _BULKY else MAX_BYTES
    if len(payload) > limit:
        raise too_large(len(payload), limit)


def _parse(decoder: msgspec.json.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except msgspec.ValidationError as problem:
        raise Rejected(Reason.INVALID, str(problem)) from problem
    except msgspec.DecodeError as problem:
        raise Rejected(Reason.MALFORMED, str(problem)) from problem


def _read_discovery(message: forms.Discovery) -> TelemetryReport:
    sent_at = utc(message.timestamp)
    duration = int32(message.discovery.duration, "$.discovery.duration")
    if duration < 0:
        raise Rejected(Reason.INVALID, "a duration is not negative - at `$.discovery.duration`")
    hosts = tuple(_read_host(host, index) for index, host in enumerate(message.discovery.hosts))
    scan = Scan(message.agent_id, sent_at, duration, hosts)
    return TelemetryReport(message.agent_id, sent_at, (scan,), numbering=read_numbering(message))


def _read_host(host: forms.Host, index: int) -> Host:
    where = f"$.discovery.hosts[{index}]"
    try:
        address = str(ip_address(host.ip))
    except ValueError as problem:
        raise Rejected(Reason.INVALID, f"`{host.ip}` is not an IP address - at `{where}.ip`") from problem
    latency = read_latency(host.latency, where)
    return Host(address, latency, tuple(host.ports), host.mac, host.hostname, host.vendor)


def _read_status(message: forms.Status) -> StatusReport:
    return StatusReport(
        message.agent_id,
        utc(message.timestamp),
        message.session,
        message.status == "online",
        message.version,
        message.interval,
    )


def _read_result(message: forms.Result) -> CommandReport:
    result = None if message.result is UNSET else bytes(message.result).decode()
    status = CommandStatus(message.status)
    return CommandReport(message.agent_id, utc(message.timestamp), message.command_id, status, result)


def _read_config_report(message: forms.ConfigReport) -> ConfigReport:
    return ConfigReport(
        message.agent_id, utc(message.timestamp), message.version, message.applied, message.error
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
