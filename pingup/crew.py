"""Who owns the tasks: each has a name, none outlives its owner, and one that fails is heard of at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Crew:
    """Background tasks for as long as its context lasts.

    Unlike a TaskGroup it leaves the exceptions of the context's body alone, and tells of a task's failure
    through `until`, so that whoever runs the program decides how it ends.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Crew]:
        """Own tasks until the context is left; what still runs then is cancelled and waited for."""
        crew = cls()
        try:
            yield crew
        finally:
            await crew._dismiss()

    def create_task(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """Run `work` side by side with everything else."""
        task = asyncio.create_task(work, name=name or getattr(work, "__qualname__", None))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def until(self, event: asyncio.Event) -> None:
        """Return when the event is set; raise what a task raised, if one fails before."""
        waiter = asyncio.create_task(event.wait(), name="until")
        try:
            both: set[asyncio.Future[Any]] = {waiter, self._failure}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._failure.done():
            self._failure.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None and not self._failure.done():
            self._failure.set_exception(problem)

    async def _dismiss(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        if not self._failure.done():
            self._failure.cancel()
        elif not self._failure.cancelled():
            self._failure.exception()  # told by `until`, or too late for anybody
