"""Cursors: where the next page begins, as a text that only its maker reads.

A cursor says where the last page ended, not how many records came before, so records that come in between
neither shift a page nor show twice. It belongs to one path; any other path, and any change, is noticed.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from pingup.errors import Invalid

MAX_LENGTH = 512
_DIGEST_SIZE = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# A moment in a cursor: microseconds since 1970, within the calendar.
Micros = Annotated[
    int,
    Meta(
        ge=(datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND,
        le=(datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND,
    ),
]
T = TypeVar("T")


def make(path: str, place: Any) -> str:
    """A cursor for this path."""
    payload = msgspec.json.encode(place)
    # Against mix-ups, not against forgers: a cursor opens nothing that its bearer may not read anyway.
    digest = hashlib.blake2b(path.encode() + b"\0" + payload, digest_size=_DIGEST_SIZE).digest()
    return base64.urlsafe_b64encode(digest + payload).rstrip(b"=").decode()


def read(path: str, cursor: str, wanted: type[T]) -> T:
    """The place that a cursor stands for.

    Raises:
        Invalid: it was not made for this path, or was changed since.
    """
    foreign = Invalid("bad cursor", {"cursor": "must be the `next` of the page before, as it was given"})
    # A long one could only be nested too deep for the parser.
    if len(cursor) > MAX_LENGTH:
        raise foreign
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place = msgspec.json.decode(raw[_DIGEST_SIZE:], type=wanted)
    except ValueError as problem:
        raise foreign from problem
    if make(path, place) != cursor:
        raise foreign
    return place


def micros(moment: datetime) -> int:
    """A moment as it stands in a cursor."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(micros: int) -> datetime:
    """A cursor's moment, in UTC."""
    return _EPOCH + micros * _MICROSECOND


def micros_or_none(moment: datetime | None) -> int | None:
    """An end of a range as it stands in a cursor; None where it is open."""
    return None if moment is None else micros(moment)


def moment_or_none(micros: int | None) -> datetime | None:
    """An end of a range out of a cursor."""
    return None if micros is None else moment(micros)
