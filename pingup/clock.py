"""The only place that asks the time, so that tests can own it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time of day."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """An aware moment as RFC 3339 in UTC with `Z`, to the microsecond: `2026-02-25T10:00:00.000000Z`.

    The width is fixed, so such texts sort as the moments do; SQLite keeps its times in this form.
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
