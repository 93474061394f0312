"""Query parameters, read and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from pingup.errors import Invalid
from pingup.http import cursors
from pingup.http.problems import NotAcceptable
from pingup.model import Order, Place, Sample, Scan, Span
from pingup.settings import parse_duration
from pingup.topics import is_agent_id

DEFAULT_LIMIT = 100
MAX_LIMIT = 10_000
MAX_FIELDS = 64
MAX_FIELD = 64  # characters, as many as the name of a metric may have
TIME_FORMS = "RFC 3339 with an offset, seconds since 1970, or back from now like -1h or -30d"

Moment = Annotated[datetime, Meta(tz=True)]
R = TypeVar("R", Sample, Scan)
E = TypeVar("E", bound=StrEnum)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?")


# --- single parameters -----------------------------------------------------------------------------


def limit_of(request: web.Request) -> int:
    """How many records a page may have.

    Raises:
        Invalid: it is not between 1 and 10,000.
    """
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    limit = int(text) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise Invalid("bad limit", {"limit": f"1 to {MAX_LIMIT:,}"})
    return limit


def choice(request: web.Request, name: str, choices: type[E]) -> E | None:
    """One of a set of words, None when it is not given.

    Raises:
        Invalid: it is another word.
    """
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return choices(text)
    except ValueError as problem:
        raise Invalid(f"bad {name}", {name: f"one of {', '.join(choices)}"}) from problem


def flag(request: web.Request, name: str) -> bool:
    """True or false, false when it is not given.

    Raises:
        Invalid: it is neither.
    """
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise Invalid(f"bad {name}", {name: "true or false"})
    return text == "true"


def agent_id_of(request: web.Request) -> str | None:
    """The parameter `agentId`, None when it is not given.

    Raises:
        Invalid: no agent can have it.
    """
    agent_id = request.query.get("agentId")
    if agent_id is not None and not is_agent_id(agent_id):
        raise Invalid("bad agentId", {"agentId": "is no agent id"})
    return agent_id


def fields_of(request: web.Request) -> tuple[str, ...] | None:
    """The names in `fields`, in their order, None when it is not given.

    Raises:
        Invalid: there are none or too many, one is given twice, or one is no name of a value.
    """
    text = request.query.get("fields")
    if text is None:
        return None
    fields = tuple(text.split(","))
    if len(fields) > MAX_FIELDS or len(set(fields)) < len(fields):
        raise Invalid("bad fields", {"fields": f"at most {MAX_FIELDS} different names"})
    if any(not 1 <= len(field) <= MAX_FIELD or field in ("timestamp", "agentId") for field in fields):
        raise Invalid("bad fields", {"fields": "names of metrics or `status`, with commas between them"})
    return fields


def moment_of(request: web.Request, name: str, now: datetime) -> datetime | None:
    """A moment in UTC in one of three forms, None when it is not given.

    Raises:
        Invalid: it is none of them, or outside of the calendar.
    """
    text = request.query.get(name)
    if text is None:
        return None
    try:
        # A plus that was not escaped arrives as a space.
        return parse_moment(text.replace(" ", "+"), now)
    except (ValueError, OverflowError) as problem:
        raise Invalid(f"bad {name}", {name: TIME_FORMS}) from problem


def parse_moment(text: str, now: datetime) -> datetime:
    """A moment in UTC: RFC 3339, seconds since 1970 with up to 9 decimals, `now`, or `-1h`.

    Raises:
        ValueError, OverflowError: it is anything else.
    """
    if text == "now":
        return now
    if text.startswith("-"):
        return now - parse_duration(text[1:])
    seconds = _SECONDS.fullmatch(text)
    if seconds is not None:
        micros = (seconds[2] or "").ljust(6, "0")[:6]
        return _EPOCH + timedelta(seconds=int(seconds[1]), microseconds=int(micros))
    return msgspec.convert(text, Moment).astimezone(UTC)


# --- what a call does not do -------------------------------------------------------------------------


def refuse(request: web.Request, *names: str) -> None:
    """Refuse parameters that would change the answer and are not understood.

    Raises:
        Invalid: one of them is given.
    """
    errors = {name: "is not supported by this call" for name in names if name in request.query}
    if errors:
        raise Invalid(f"not supported: {', '.join(errors)}", errors)


def want_json(request: web.Request) -> None:
    """Refuse to answer in anything but JSON.

    Raises:
        NotAcceptable: the caller asks for something else.
    """
    accept = request.headers.get(hdrs.ACCEPT, "*/*").lower()
    takes_json = any(media in accept for media in ("*/*", "application/*", "application/json"))
    if request.query.get("format", "json") != "json" or not takes_json:
        raise NotAcceptable("the answer can be had as JSON only")


# --- histories -------------------------------------------------------------------------------------


class _Bookmark(msgspec.Struct, frozen=True, array_like=True):
    """Where a page of a history ended, and the range that it is a page of: `-1h` moves while one reads."""

    order: Order
    start: cursors.Micros | None
    end: cursors.Micros | None
    timestamp: cursors.Micros
    shown: Annotated[int, Meta(ge=1, le=2**31)]


def range_of(request: web.Request, now: datetime) -> tuple[datetime | None, datetime | None]:
    """The moments `from` and `to`, None where they are not given.

    Raises:
        Invalid: one is no moment, or they are the wrong way round.
    """
    start, end = moment_of(request, "from", now), moment_of(request, "to", now)
    if start is not None and end is not None and start > end:
        raise Invalid("bad range", {"from": "must not lie after `to`"})
    return start, end


def span_of(request: web.Request, now: datetime) -> Span:
    """The stretch of a history that `from`, `to`, `limit`, `order` and `cursor` ask for.

    A cursor goes on with the range of its first page.

    Raises:
        Invalid, NotAcceptable: a parameter is bad.
    """
    want_json(request)
    limit = limit_of(request)
    order = choice(request, "order", Order)
    start, end = range_of(request, now)
    cursor = request.query.get("cursor")
    if cursor is None:
        return Span(start, end, limit, order or Order.DESC)
    mark = cursors.read(request.path, cursor, _Bookmark)
    if order not in (None, mark.order):
        raise Invalid("bad order", {"order": f"the cursor is of a page in the order {mark.order}"})
    return Span(
        cursors.moment_or_none(mark.start),
        cursors.moment_or_none(mark.end),
        limit,
        mark.order,
        Place(cursors.moment(mark.timestamp), mark.shown),
    )


def one_more(span: Span) -> Span:
    """The span with one record more, which tells whether another page follows."""
    return msgspec.structs.replace(span, limit=span.limit + 1)


def page_of(request: web.Request, span: Span, found: Sequence[R]) -> tuple[Sequence[R], str | None]:
    """What to show of the records found by `one_more`, and the cursor of the next page, if there is one."""
    if len(found) <= span.limit:
        return found, None
    page = found[: span.limit]
    last = page[-1].timestamp
    shown = sum(record.timestamp == last for record in page)
    if span.after is not None and span.after.timestamp == last:
        shown += span.after.shown
    mark = _Bookmark(
        span.order,
        cursors.micros_or_none(span.start),
        cursors.micros_or_none(span.end),
        cursors.micros(last),
        shown,
    )
    return page, cursors.make(request.path, mark)
