"""Metrics messages → samples.

Nearly all of them are plain: they have none but the members of the contract, and no number out of the
ordinary. What the strict parser takes of such a message is within all bounds already, so that it need not be
looked through before; whatever else there may be is left to the general one, and to its words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

import msgspec
from msgspec import UNSET

from pingup.codec.forms import Metrics, Number, Numbered, PlainMetrics
from pingup.codec.limits import (
    INT32_MAX,
    MAX_BYTES,
    MAX_EXTRA_BYTES,
    MAX_METRIC_NAME,
    MAX_METRICS,
    RESERVED_METRICS,
)
from pingup.codec.numbers import read_latency, utc
from pingup.errors import Reason, Rejected
from pingup.model import Numbering, Sample, TelemetryReport

_LONGEST_WORD = 32
_WORD = re.compile(r"[a-z0-9_-]{1,32}")

_plain = msgspec.json.Decoder(PlainMetrics)
_encoder = msgspec.json.Encoder()


def parse_plain(payload: bytes) -> PlainMetrics | None:
    """A message within all bounds; None when that can't be told so simply, or it is none."""
    if not payload.isascii() or b"\\" in payload:
        return None
    try:
        message = _plain.decode(payload)
    except msgspec.DecodeError:
        return None
    if message.samples is UNSET:
        count = 1
        is_plain = message.metrics is not UNSET and message.status is not UNSET and _is_word(message.status)
    else:
        count = len(message.samples)
        is_plain = message.metrics is UNSET and message.status is UNSET
        is_plain = is_plain and all(_is_word(sample.status) for sample in message.samples)
    # Of a status that is there twice only the last one was seen; all else is checked each time.
    return message if is_plain and payload.count(b'"status"') == count else None


def _is_word(status: str) -> bool:
    return len(status) <= _LONGEST_WORD and _is_short_word(status)


@lru_cache(maxsize=256)
def _is_short_word(status: str) -> bool:
    return _WORD.fullmatch(status) is not None


def read_metrics(message: Metrics, size: int) -> TelemetryReport:
    """What a message of `size` bytes reports; its metrics are taken out of it."""
    sent_at = utc(message.timestamp)
    agent_id = message.agent_id
    if message.samples is UNSET:
        if message.metrics is UNSET or message.status is UNSET:
            missing = "metrics" if message.metrics is UNSET else "status"
            raise Rejected(Reason.INVALID, f"Object missing required field `{missing}`")
        if size > MAX_BYTES:
            raise too_large(size, MAX_BYTES)
        sample = _read_sample(agent_id, sent_at, message.metrics, message.status)
        return TelemetryReport(agent_id, sent_at, (sample,), False, read_numbering(message))
    if message.metrics is not UNSET:
        raise Rejected(Reason.INVALID, "a message has either `metrics` or `samples`, this one has both")
    samples = tuple(
        _read_sample(agent_id, utc(item.timestamp), item.metrics, item.status, index)
        for index, item in enumerate(message.samples)
    )
    return TelemetryReport(agent_id, sent_at, samples, True, read_numbering(message))


def too_large(size: int, limit: int) -> Rejected:
    return Rejected(Reason.TOO_LARGE, f"the message has {size:,} bytes, {limit:,} are allowed")


def read_numbering(message: Numbered) -> Numbering | None:
    """How a message is numbered, if it is."""
    if message.stream is UNSET or message.seq is UNSET:
        return None
    return Numbering(message.stream, message.seq, message.first)


def _read_sample(
    agent_id: str,
    timestamp: datetime,
    metrics: dict[str, Number | None],
    status: str,
    index: int | None = None,
) -> Sample:
    """A sample out of its metrics, of which nothing is left in them; `index` is its place in a batch."""
    take = metrics.pop
    cpu, ram, disk, latency = take("cpu", None), take("ram", None), take("disk", None), take("latency", None)
    whole = None
    if latency is not None:
        # Only what is unusual needs its place in words.
        is_usual = 0 <= latency < INT32_MAX
        whole = int(latency + 0.5) if is_usual else read_latency(latency, _place(index))
    extra = read_extra(metrics, _place(index)) if metrics else None
    if cpu is None and ram is None and disk is None and latency is None and extra is None:
        raise Rejected(Reason.INVALID, f"at least one metric must be a number - at `{_place(index)}`")
    return Sample(
        agent_id,
        timestamp,
        None if cpu is None else float(cpu),
        None if ram is None else float(ram),
        None if disk is None else float(disk),
        whole,
        status,
        extra,
    )


def _place(index: int | None) -> str:
    return "$.metrics" if index is None else f"$.samples[{index}].metrics"


def read_extra(metrics: Mapping[str, Number | None], where: str) -> str | None:
    """Further metrics as the text that is stored, None when there are none."""
    numbers = {name: value for name, value in metrics.items() if value is not None}
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
        if name in RESERVED_METRICS:
            raise Rejected(Reason.INVALID, f"no metric may be named `{name}` - at `{where}`")
    text = _encoder.encode({name: float(numbers[name]) for name in sorted(numbers)})
    if len(text) > MAX_EXTRA_BYTES:
        size = f"further metrics of {len(text):,} bytes, at most {MAX_EXTRA_BYTES:,} are allowed"
        raise Rejected(Reason.INVALID, f"{size} - at `{where}`")
    return text.decode()
