"""How the server is: each part by name, and the whole."""

from __future__ import annotations

import asyncio
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


ANSWER_WITHIN = 2.0
"""Seconds that a part has to say how it is; one that hangs is not well, and must not hide the others."""
FRESH_FOR = 0.2
"""Seconds that an answer counts: asking the registry costs a write."""

# None says nothing, for what is only worth a word when it is wrong.
Check = Callable[[], Awaitable[Component | None]]


class HealthCheck:
    """Asks every part how it is. Everybody may ask, so who asks often gets the same answer for a while."""

    def __init__(self, clock: Clock, checks: dict[str, Check]) -> None:
        self._clock = clock
        self._started: datetime = clock.now()
        self._checks = checks
        self._found: dict[str, Component] = {}
        self._fresh_until = 0.0
        self._asking = asyncio.Lock()

    async def look(self) -> Health:
        """How all parts are, at most `FRESH_FOR` seconds ago; the whole is as well as its worst part."""
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() >= self._fresh_until:
                self._found = await self._ask_all()
                self._fresh_until = loop.time() + FRESH_FOR
        states = {component.status for component in self._found.values()}
        worst = next((s for s in (Status.UNHEALTHY, Status.DEGRADED) if s in states), Status.HEALTHY)
        uptime = (self._clock.now() - self._started).total_seconds()
        return Health(worst, __version__, round(uptime, 3), self._found)

    async def _ask_all(self) -> dict[str, Component]:
        found = await asyncio.gather(*(_ask(check) for check in self._checks.values()))
        named = zip(self._checks, found, strict=True)
        return {name: component for name, component in named if component is not None}


async def _ask(check: Check) -> Component | None:
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            return await check()
    except TimeoutError:
        return Component(Status.UNHEALTHY, f"does not answer within {ANSWER_WITHIN:g} s")
    except Unavailable as problem:
        return Component(Status.UNHEALTHY, str(problem))
