"""Work by name: each name is served soon after it is called, never twice at a time, many side by side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import islice

from pingup.errors import Unavailable

log = logging.getLogger(__name__)

MAX_SIDE_BY_SIDE = 64
RETRY_AFTER = 5.0  # seconds


class Errands:
    """Serves names. One that is called while it is being served is served once more afterwards."""

    def __init__(self, serve: Callable[[str], Awaitable[None]], *, retry_after: float = RETRY_AFTER) -> None:
        """`serve` does the work for a name. When it raises `Unavailable` the name is served again after so
        many seconds; anything else that it raises ends `run`."""
        self._serve = serve
        self._retry_after = retry_after
        self._called: dict[str, None] = {}
        self._serving: set[str] = set()
        self._change = asyncio.Event()

    def call(self, name: str) -> None:
        """Have a name served, in the order of the calls."""
        self._called[name] = None
        self._change.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._change.wait()
                self._change.clear()
                for name in self._take():
                    tasks.create_task(self._run_one(name))

    def _take(self) -> list[str]:
        free = MAX_SIDE_BY_SIDE - len(self._serving)
        names = list(islice((name for name in self._called if name not in self._serving), free))
        for name in names:
            del self._called[name]
        self._serving.update(names)
        return names

    async def _run_one(self, name: str) -> None:
        try:
            await self._serve(name)
        except Unavailable as problem:
            log.warning("%s is served later: %s", name, problem)
            await asyncio.sleep(self._retry_after)
            self.call(name)
        finally:
            self._serving.discard(name)
            self._change.set()
