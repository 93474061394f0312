"""What was measured and is not yet with the server: on the disk, bounded, and the oldest is dropped first."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from pingup.agent.ranges import Ranges
from pingup.agent.settings import SpoolSettings
from pingup.agent.spool_disk import Disk, Unwritten, Work
from pingup.agent.spool_file import Bounds, Extent, Proof, Stored
from pingup.errors import Unavailable
from pingup.topics import Kind

MAX_UNWRITTEN = 1_000
MAX_UNWRITTEN_BYTES = 8 * 1024 * 1024
RETRY_PAUSE = 2.0
_log = logging.getLogger(__name__)


class Spool:
    """Keeps messages in a file that a thread of its own writes; `run` keeps that going.

    While the disk takes nothing, the newest messages stay in memory, and `run` tries again.
    """

    def __init__(self, path: Path, settings: SpoolSettings, retry_pause: float = RETRY_PAUSE) -> None:
        """Nothing is opened yet. `retry_pause` is seconds until the next attempt when the disk has failed."""
        self._path = path
        self._retry_pause = retry_pause
        self._disk = Disk(path, Bounds(settings.max_messages, settings.max_bytes))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._unwritten: deque[Unwritten] = deque()
        self._unwritten_bytes = 0
        self._tickets = 0
        self._freed = Ranges()
        self._proof: Proof | None = None
        self._renumber = False
        self._dropped = 0
        self._work = asyncio.Event()
        self._on_change: Callable[[], None] = lambda: None
        self.extent: Extent | None = None
        """What the file holds, as far as it is known."""
        self.is_failing = False
        """Whether the disk did not take the last that it was given."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """For as long as the spool is used; at the end, what is still in memory goes to the disk."""
        with self._thread:
            self._work.set()
            try:
                yield
            finally:
                self._thread.submit(self._disk.close, self._take_work())

    def watch(self, on_change: Callable[[], None]) -> None:
        """Have this called whenever `extent` or `is_failing` may have changed."""
        self._on_change = on_change

    # --- what comes in and goes out ------------------------------------------------------------------

    def put(self, kind: Kind, body: bytes) -> None:
        """Take in a message: one JSON object, neither signed nor numbered. Never fails, never waits."""
        self._tickets += 1
        self._unwritten.append(Unwritten(self._tickets, Stored(kind, body)))
        self._unwritten_bytes += len(body)
        while len(self._unwritten) > MAX_UNWRITTEN or self._unwritten_bytes > MAX_UNWRITTEN_BYTES:
            self._forget_oldest()
            self._count_dropped(1)
        self._work.set()

    async def read(self, stream: str, seq: int) -> Stored | None:
        """A message of a stream, if it is still held.

        Raises:
            Unavailable: the disk does not give it now.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._disk.read, stream, seq)
        except (sqlite3.Error, OSError) as problem:
            self._work.set()  # If the file was damaged, a new one is begun.
            raise Unavailable(f"the spool can't be read now: {problem}") from problem

    def free(self, stream: str, ranges: Ranges) -> None:
        """Let messages of a stream go."""
        if ranges and self.extent is not None and self.extent.stream == stream:
            for first, last in ranges:
                self._freed.add(first, last)
            self._work.set()

    def remember(self, stream: str, proof: Proof) -> None:
        """Keep, also over a restart, what lets messages of a stream go."""
        if self.extent is not None and self.extent.stream == stream:
            self._proof = proof
            self._work.set()

    def renumber(self, stream: str) -> None:
        """Begin a new stream with what is held of this one."""
        if self.extent is not None and self.extent.stream == stream:
            self._renumber = True
            self._work.set()

    def unwritten(self) -> Unwritten | None:
        """The oldest message that the disk does not take, while that is so."""
        return self._unwritten[0] if self.is_failing and self._unwritten else None

    def arrived(self, unwritten: Unwritten) -> None:
        """The broker has a message that was never written: it need not be kept any more."""
        if self._unwritten and self._unwritten[0] is unwritten:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._unwritten_bytes -= len(self._unwritten.popleft().message.body)

    # --- to the disk ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring everything to the disk, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            if not await self._flush():
                await asyncio.sleep(self._retry_pause)
                self._work.set()

    async def _flush(self) -> bool:
        """Write what waits; whether the disk has taken it."""
        loop = asyncio.get_running_loop()
        work = self._take_work()
        try:
            extent, dropped = await loop.run_in_executor(self._thread, self._disk.do, work)
        except (sqlite3.Error, OSError) as problem:
            self._fail(work, problem)
            return False
        while self._unwritten and self._unwritten[0].ticket <= self._disk.written:
            self._forget_oldest()
        self._succeed(extent)
        self._count_dropped(dropped)
        if work.freed and not dropped:
            self._tell_dropped()
        return True

    def _take_work(self) -> Work:
        stream = None if self.extent is None else self.extent.stream
        work = Work(tuple(self._unwritten), stream, tuple(self._freed), self._proof, self._renumber)
        self._freed, self._proof, self._renumber = Ranges(), None, False
        return work

    def _fail(self, work: Work, problem: Exception) -> None:
        if not self.is_failing:
            _log.error("the spool %s can't be written: %s; messages wait in memory", self._path, problem)
        self.is_failing = True
        self._freed = Ranges((*work.freed, *self._freed))
        self._proof = self._proof or work.proof
        self._renumber = self._renumber or work.renumber
        self._on_change()

    def _succeed(self, extent: Extent) -> None:
        if self.is_failing:
            _log.warning("the spool %s can be written again", self._path)
        self.is_failing = False
        if self.extent is not None and self.extent.stream != extent.stream:
            # What was asked for meanwhile was said of the numbers of the stream that has ended.
            self._freed, self._proof, self._renumber = Ranges(), None, False
        self.extent = extent
        self._on_change()

    # --- what was too much ---------------------------------------------------------------------------

    def _count_dropped(self, dropped: int) -> None:
        if dropped and not self._dropped:
            _log.warning("too many messages wait for the server: from now on the oldest are dropped")
        self._dropped += dropped

    def _tell_dropped(self) -> None:
        if self._dropped:
            _log.warning("%d messages were dropped while the server did not get them", self._dropped)
            self._dropped = 0
