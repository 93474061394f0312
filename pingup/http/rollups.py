"""Histories of metrics in buckets: what `step`, `agg` and `fields` ask for, and the answer."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta
from msgspec.structs import replace

from pingup.errors import Invalid
from pingup.http import cursors, query
from pingup.http.access import AGENT_ID
from pingup.http.context import CONTEXT
from pingup.http.problems import answer
from pingup.model import Order
from pingup.rollups import Aggregate, Bucket, Rollup
from pingup.settings import parse_duration

STEP_FORMS = "auto, or 1s to 366d as a duration like 1m, 5m or 1h"
AGG_FORMS = f"different ones of {', '.join(Aggregate)}, with commas between them"

_LONGEST = timedelta(days=366)
_METRICS = ("cpu", "ram", "disk", "latency")
_AGGREGATES = (Aggregate.AVG, Aggregate.MIN, Aggregate.MAX)  # averages alone hide what one looks for
# What stands in a bucket or a sample beside metrics.
_NO_METRICS = ("status", "count")

# `auto` is the first of these with which the range has no more buckets than that.
_AUTO_BUCKETS = 360
_AUTO_STEPS = tuple(
    timedelta(seconds=seconds)
    for seconds in (1, 5, 10, 30, 60, 300, 600, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 604_800)
)


class _Bookmark(msgspec.Struct, frozen=True, array_like=True):
    """Where a page of buckets ended, the range that it is a page of, and the step in seconds."""

    order: Order
    start: cursors.Micros | None
    end: cursors.Micros | None
    step: Annotated[int, Meta(ge=1, le=_LONGEST.days * 86_400)]
    timestamp: cursors.Micros


class _Page(msgspec.Struct, frozen=True):
    """The buckets asked for, those of all pages, and the last one of the page before, if there was one."""

    rollup: Rollup
    after: datetime | None


async def history(request: web.Request) -> web.StreamResponse:
    """An agent's samples by the bucket, newest first unless asked otherwise."""
    context = request.app[CONTEXT]
    agent_id = request.match_info[AGENT_ID]
    asked = _page_of(request, context.clock.now())
    rollup = asked.rollup
    found = await context.history.buckets(agent_id, _missing(asked))
    page = found[: rollup.limit]
    document: dict[str, object] = {
        "agentId": agent_id,
        "step": _seconds(rollup.step),
        "metrics": [_json(bucket, rollup) for bucket in page],
        "next": _cursor(request, rollup, page[-1].timestamp) if len(found) > rollup.limit else None,
    }
    if rollup.start is not None or rollup.end is not None:
        document["completeness"] = context.history.completeness(agent_id, rollup.start, rollup.end)
    return answer(document)


def _json(bucket: Bucket, rollup: Rollup) -> dict[str, Any]:
    """A bucket as people get it."""
    metrics = {
        metric: dict(zip(rollup.aggregates, values, strict=True))
        for metric, values in zip(rollup.metrics, bucket.values, strict=True)
    }
    return {"timestamp": bucket.timestamp, "count": bucket.count, **metrics}


# --- the question ----------------------------------------------------------------------------------


def _page_of(request: web.Request, now: datetime) -> _Page:
    """Raises Invalid or NotAcceptable when a parameter is bad."""
    query.want_json(request)
    order = query.choice(request, "order", Order)
    start, end = query.range_of(request, now)
    mark = _bookmark(request, order)
    if mark is not None:
        start, end = cursors.moment_or_none(mark.start), cursors.moment_or_none(mark.end)
    rollup = Rollup(
        step=timedelta(seconds=mark.step) if mark else _step_of(request, start, end or now),
        metrics=_metrics_of(request),
        aggregates=_aggregates_of(request),
        start=start,
        end=end,
        limit=query.limit_of(request),
        order=mark.order if mark else order or Order.DESC,
    )
    return _Page(rollup, cursors.moment(mark.timestamp) if mark else None)


def _step_of(request: web.Request, start: datetime | None, end: datetime) -> timedelta:
    text = request.query["step"]
    if text == "auto":
        if start is None:
            raise Invalid("bad step", {"step": "`auto` needs `from`"})
        return next((step for step in _AUTO_STEPS if step * _AUTO_BUCKETS >= end - start), _LONGEST)
    try:
        step = parse_duration(text)
    except ValueError as problem:
        raise Invalid("bad step", {"step": STEP_FORMS}) from problem
    if step > _LONGEST:
        raise Invalid("bad step", {"step": STEP_FORMS})
    return step


def _aggregates_of(request: web.Request) -> tuple[Aggregate, ...]:
    text = request.query.get("agg")
    if text is None:
        return _AGGREGATES
    try:
        aggregates = tuple(map(Aggregate, text.split(",")))
    except ValueError as problem:
        raise Invalid("bad agg", {"agg": AGG_FORMS}) from problem
    if len(set(aggregates)) < len(aggregates):
        raise Invalid("bad agg", {"agg": AGG_FORMS})
    return aggregates


def _metrics_of(request: web.Request) -> tuple[str, ...]:
    metrics = query.fields_of(request) or _METRICS
    for name in _NO_METRICS:
        if name in metrics:
            raise Invalid("bad fields", {"fields": f"`{name}` can't be had by the step"})
    return metrics


# --- pages -----------------------------------------------------------------------------------------


def _missing(page: _Page) -> Rollup:
    """What is still to be read, and one bucket more, which tells whether another page follows."""
    rollup = replace(page.rollup, limit=page.rollup.limit + 1)
    if page.after is None:
        return rollup
    if rollup.order is Order.DESC:
        return replace(rollup, end=page.after)
    return replace(rollup, start=page.after + rollup.step)


def _cursor(request: web.Request, rollup: Rollup, last: datetime) -> str:
    mark = _Bookmark(
        rollup.order,
        cursors.micros_or_none(rollup.start),
        cursors.micros_or_none(rollup.end),
        _seconds(rollup.step),
        cursors.micros(last),
    )
    return cursors.make(_place(request), mark)


def _bookmark(request: web.Request, order: Order | None) -> _Bookmark | None:
    """Where the page before ended, in which order and range: `-1h` moves while one reads."""
    cursor = request.query.get("cursor")
    if cursor is None:
        return None
    mark = cursors.read(_place(request), cursor, _Bookmark)
    if order not in (None, mark.order):
        raise Invalid("bad order", {"order": f"the cursor is of a page in the order {mark.order}"})
    return mark


def _place(request: web.Request) -> str:
    """What a cursor belongs to: not to a history of samples, nor to one with another step."""
    return f"{request.path}?step={request.query['step']}"


def _seconds(step: timedelta) -> int:
    return step // timedelta(seconds=1)
