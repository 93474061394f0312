"""The one writer: whole transactions, one after the other; what waits together is committed together."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from aiosqlite import Connection

from pingup.errors import Unavailable
from pingup.storage.sqlite.failures import cannot_work, unavailable

MAX_BATCH = 256
"""How many writes share a commit at most."""
MAX_WAITING = 1024
"""How many writes wait at most; further callers wait to get in."""

T = TypeVar("T")
Work = Callable[[Connection], Coroutine[Any, Any, T]]


class _Write(Generic[T]):
    """A piece of work, and the future that its caller waits for."""

    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self.answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def succeed(self, result: T) -> None:
        if not self.answer.done():
            self.answer.set_result(result)

    def fail(self, problem: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(problem)


class GroupCommit:
    """Runs writes on the connection that it alone uses. Opening starts its task, closing ends it.

    Every write stands in a savepoint of a shared transaction: its own error undoes it alone and goes to its
    caller. Only after the commit does any caller hear of success.
    """

    def __init__(self, connection: Connection) -> None:
        """`connection` must be in autocommit mode (`isolation_level=None`)."""
        self._connection = connection
        self._room = asyncio.Semaphore(MAX_WAITING)
        self._waiting: deque[_Write[Any]] = deque()
        self._stirred = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="registry writer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more, finish what waits, end the task."""
        self._closed = True
        self._stirred.set()
        await self._task

    async def write(self, work: Work[T]) -> T:
        """Run `work` as a transaction and return its result once that is committed.

        A caller that is cancelled stops waiting; its work is left out if it has not begun, and carried out
        whole if it has.

        Raises:
            Unavailable: SQLite cannot work now, or the registry is closed; nothing was written.
            Exception: whatever `work` raised; nothing of it was written.
        """
        # The place is held until the writer is done with it, even when its caller has given up.
        await self._room.acquire()
        if self._closed:
            self._room.release()
            raise Unavailable("the registry is closed")
        write = _Write(work)
        self._waiting.append(write)
        self._stirred.set()
        return await write.answer

    async def _run(self) -> None:
        try:
            while await self._something_waits():
                batch = list(islice(self._waiting, MAX_BATCH))
                await self._carry_out([write for write in batch if not write.answer.done()])
                self._let_go(len(batch))
        finally:
            # Nobody may be left waiting for a writer that is gone.
            self._closed = True
            for write in self._waiting:
                write.fail(Unavailable("the registry is closed"))
            self._let_go(len(self._waiting))

    def _let_go(self, count: int) -> None:
        for _ in range(count):
            self._waiting.popleft()
            self._room.release()

    async def _something_waits(self) -> bool:
        while not self._waiting and not self._closed:
            self._stirred.clear()
            await self._stirred.wait()
        return bool(self._waiting)

    async def _carry_out(self, batch: Sequence[_Write[Any]]) -> None:
        """Commit the batch, then tell everybody."""
        try:
            await self._connection.execute("BEGIN IMMEDIATE")
            finished = [await self._attempt(write) for write in batch]
            await self._connection.execute("COMMIT")
        except sqlite3.Error as problem:
            await self._roll_back()
            for write in batch:
                write.fail(unavailable(problem) if cannot_work(problem) else problem)
            return
        for write, task in zip(batch, finished, strict=True):
            failure = task.exception()
            if failure is None:
                write.succeed(task.result())
            else:
                write.fail(failure)

    async def _attempt(self, write: _Write[Any]) -> asyncio.Task[Any]:
        """Run one write in its savepoint; the task that is returned is done, well or badly.

        Raises:
            sqlite3.Error: the machine failed; SQLite may have undone the whole transaction by itself.
        """
        await self._connection.execute("SAVEPOINT one_write")
        task = asyncio.create_task(write.work(self._connection))
        await asyncio.wait([task])
        problem = task.exception()
        if problem is not None:
            if cannot_work(problem):
                raise problem
            await self._connection.execute("ROLLBACK TO one_write")
        await self._connection.execute("RELEASE one_write")
        return task

    async def _roll_back(self) -> None:
        if self._connection.in_transaction:
            await self._connection.rollback()
