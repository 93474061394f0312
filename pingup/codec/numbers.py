"""Numbers and moments as the model holds them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from pingup.codec.forms import Number
from pingup.codec.limits import INT32_MAX, INT32_MIN
from pingup.errors import Reason, Rejected


def utc(moment: datetime) -> datetime:
    """The same moment in UTC."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as problem:
        raise Rejected(Reason.INVALID, "the timestamp is outside of the years 1 to 9999 in UTC") from problem


def read_latency(value: Number | None, where: str) -> int | None:
    """Whole milliseconds; below zero means "no answer"."""
    if value is None or value < 0:
        return None
    return int32(value, f"{where}.latency")


def int32(value: Number, where: str) -> int:
    # Halves go up, as people round; the built-in rounds them to even.
    whole = math.floor(value + 0.5) if isinstance(value, float) else value
    if not INT32_MIN <= whole <= INT32_MAX:
        raise Rejected(Reason.INVALID, f"{value} is beyond 32 bits - at `{where}`")
    return whole
