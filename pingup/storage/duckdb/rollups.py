"""Histories of one agent in buckets of equal length.

To find percentiles DuckDB keeps all values of a statement in memory. So a history is rolled up by the
stretch, from one end until the page is full, each stretch as long as the one before gives reason to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pingup.errors import Invalid
from pingup.model import Order
from pingup.rollups import Aggregate, Bucket, Rollup
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.histories import one_state
from pingup.storage.duckdb.tables import aware, naive

# Buckets are numbered from a Monday on, so that weeks begin on one. Moments are as the columns hold them.
_ORIGIN = datetime(1970, 1, 5)
_BEGINNING, _END = datetime.min, datetime.max

# What is in braces is fixed text; values are always parameters, the names of metrics too.
_STRETCH = "FROM metrics WHERE timestamp >= $start AND timestamp < $end AND agent_id = $agent_id"
_EDGES: Mapping[Order, str] = {
    Order.ASC: f"SELECT timestamp {_STRETCH} ORDER BY timestamp LIMIT 1",
    Order.DESC: f"SELECT timestamp {_STRETCH} ORDER BY timestamp DESC LIMIT 1",
}
_COUNT = f"SELECT count(*) {_STRETCH}"
_BUCKETS = """
    SELECT (epoch_us(timestamp) - 345600000000) // $step AS number, count(*), {values}
    FROM (SELECT timestamp, {metrics} {stretch})
    GROUP BY number
    ORDER BY number {order}
    LIMIT $limit
"""
_COLUMNS = ("cpu", "ram", "disk", "latency")
_FURTHER = "TRY_CAST(json_extract_string(extra, ${name}) AS DOUBLE)"
_PERCENTILES: Mapping[Aggregate, float] = {Aggregate.P50: 0.5, Aggregate.P95: 0.95, Aggregate.P99: 0.99}
_PLAIN: Mapping[Aggregate, str] = {
    Aggregate.AVG: "avg({name})",
    Aggregate.MIN: "min({name})",
    Aggregate.MAX: "max({name})",
    Aggregate.LAST: "arg_max({name}, timestamp)",
    Aggregate.COUNT: "count({name})",
}

# Values kept for percentiles by a statement: those aimed at take a third of DuckDB's memory, the most nearly
# all of it.
_AIM, _MOST = 400_000, 800_000
_FIRST_STRETCH = timedelta(days=1)
_GROWTH = 8
_MAX_BUCKETS = 50_000  # in a stretch


def buckets(cursor: duckdb.DuckDBPyConnection, agent_id: str, question: Rollup) -> list[Bucket]:
    """The first buckets of a history that have samples, in the order that is asked for.

    Raises:
        Invalid: there are too many samples in a bucket to find percentiles.
    """
    with one_state(cursor):
        return _Walk(cursor, agent_id, question).buckets()


class _Walk:
    """One way along a history. Buckets go by number; the front is the border of what was seen."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, agent_id: str, question: Rollup) -> None:
        self._cursor = cursor
        self._question = question
        self._is_back = question.order is Order.DESC
        self._keeps_values = not _PERCENTILES.keys().isdisjoint(question.aggregates)
        self._start = naive(question.start) if question.start else _BEGINNING
        self._end = naive(question.end) if question.end else _END
        self._agent = {"agent_id": agent_id}
        self._statement, self._parameters = _statement(question)

    def buckets(self) -> list[Bucket]:
        """All buckets of the page."""
        found: list[Bucket] = []
        length = self._first_length()
        front = self._front(None)
        while front is not None and len(found) < self._question.limit:
            low, high = (front - length, front) if self._is_back else (front, front + length)
            some = self._some(low, high, self._question.limit - len(found))
            found += some
            front = low if self._is_back else high
            if not some:
                front = self._front(front)
            length = self._next_length(length, some)
        return found

    def _front(self, seen: int | None) -> int | None:
        """Where the samples beyond what was seen begin, None if there are no more."""
        start, end = self._beyond(seen)
        found = self._ask(_EDGES[self._question.order], start, end) if start < end else []
        if not found:
            return None
        number: int = (found[0][0] - _ORIGIN) // self._question.step
        return number + 1 if self._is_back else number

    def _beyond(self, seen: int | None) -> tuple[datetime, datetime]:
        if seen is None:
            return self._start, self._end
        border = self._begin(seen)
        return (
            (self._start, min(border, self._end)) if self._is_back else (max(border, self._start), self._end)
        )

    def _some(self, low: int, high: int, limit: int) -> list[Bucket]:
        """The buckets of a stretch that have samples."""
        start, end = max(self._begin(low), self._start), min(self._begin(high), self._end)
        if start >= end:
            return []
        if high - low == 1 and self._keeps_values:
            self._check_fits(start, end)
        rows = self._ask(self._statement, start, end, limit=limit, **self._parameters)
        width = len(self._question.aggregates)
        return [
            Bucket(
                aware(self._begin(number)),
                samples,
                tuple(tuple(values[at : at + width]) for at in range(0, len(values), width)),
            )
            for number, samples, *values in rows
        ]

    def _check_fits(self, start: datetime, end: datetime) -> None:
        [(samples,)] = self._ask(_COUNT, start, end)
        most = _MOST // len(self._question.metrics)
        if samples > most:
            what = f"has {samples:,} samples, and percentiles can be found of {most:,} for so many fields"
            raise Invalid("bad step", {"step": what})

    def _first_length(self) -> int:
        most = self._question.limit
        if self._keeps_values:
            most = min(most, _FIRST_STRETCH // self._question.step)
        return max(1, most)

    def _next_length(self, length: int, seen: Sequence[Bucket]) -> int:
        """Longer, for there may be holes, but not by more than what was seen gives reason to."""
        most = min(_GROWTH * length, _MAX_BUCKETS)
        samples = sum(bucket.count for bucket in seen)
        if self._keeps_values and samples:
            most = min(most, length * _AIM // (samples * len(self._question.metrics)))
        return max(1, most)

    def _begin(self, number: int) -> datetime:
        try:
            return _ORIGIN + number * self._question.step
        except OverflowError:
            return _BEGINNING if number < 0 else _END

    def _ask(
        self, statement: str, start: datetime, end: datetime, **parameters: str | int
    ) -> list[tuple[Any, ...]]:
        stretch = {**self._agent, "start": start, "end": end}
        return self._cursor.execute(statement, {**stretch, **parameters}).fetchall()


def _statement(question: Rollup) -> tuple[str, dict[str, str | int]]:
    """The statement that makes buckets, and its parameters beside those of the stretch."""
    parameters: dict[str, str | int] = {"step": question.step // timedelta(microseconds=1)}
    sources: list[str] = []
    values: list[str] = []
    for index, metric in enumerate(question.metrics):
        name = f"m{index}"
        source = metric
        if metric not in _COLUMNS:
            source = _FURTHER.format(name=name)
            parameters[name] = _pointer(metric)
        sources.append(f"{source} AS {name}")
        values.extend(_values(name, question.aggregates))
    statement = _BUCKETS.format(
        values=", ".join(values),
        metrics=", ".join(sources),
        stretch=_STRETCH,
        order=question.order.value,
    )
    return statement, parameters


def _values(name: str, aggregates: Sequence[Aggregate]) -> Iterator[str]:
    """What is asked of a metric. DuckDB finds all its percentiles together when they are one list."""
    fractions = [_PERCENTILES[aggregate] for aggregate in aggregates if aggregate in _PERCENTILES]
    for aggregate in aggregates:
        if aggregate in _PERCENTILES:
            yield f"quantile_cont({name}, {fractions})[{fractions.index(_PERCENTILES[aggregate]) + 1}]"
        else:
            yield _PLAIN[aggregate].format(name=name)


def _pointer(metric: str) -> str:
    """Where a further metric stands in the JSON text (RFC 6901)."""
    return "/" + metric.replace("~", "~0").replace("/", "~1")
