"""How the server is: each part by name, and the whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum

import msgspec

from pingup import __version__
from pingup.clock import Clock
from pingup.errors import Unavailable


class Status(StrEnum):
    """`degraded` needs somebody to look; `unhealthy` can't serve."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Component(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part: how it is, and in words what is wrong."""

    status: Status
    detail: str | None = None


class Health(msgspec.Struct, frozen=True):
    """The whole; `uptime` in seconds."""

    status: Status
    version: str
    uptime: float
    components: dict[str, Component]


# None says nothing, for what is only worth a word when it is wrong.
Check = Callable[[], Awaitable[Component | None]]


class HealthCheck:
    """Asks every part how it is."""

    def __init__(self, clock: Clock, checks: dict[str, Check]) -> None:
        self._clock = clock
        self._started: datetime = clock.now()
        self._checks = checks

    async def look(self) -> Health:
        """Ask all parts; the whole is as well as its worst part."""
        found = {name: await _ask(check) for name, check in self._checks.items()}
        components = {name: component for name, component in found.items() if component is not None}
        states = {component.status for component in components.values()}
        worst = next((s for s in (Status.UNHEALTHY, Status.DEGRADED) if s in states), Status.HEALTHY)
        uptime = (self._clock.now() - self._started).total_seconds()
        return Health(worst, __version__, round(uptime, 3), components)


async def _ask(check: Check) -> Component | None:
    try:
        return await check()
    except Unavailable as problem:
        return Component(Status.UNHEALTHY, str(problem))
