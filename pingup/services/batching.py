"""Group commit: what waits is committed together, then each sender is told.

While one batch is being committed the next one gathers, so a lone message is committed at once and a flood
shares its commits. Nothing is dropped: when too much waits, senders do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

import msgspec

from pingup.errors import Reason, Rejected, Unavailable, Unstorable
from pingup.model import Deposit, Host, Record, Scan
from pingup.ports import TelemetryStore

log = logging.getLogger(__name__)

MAX_BATCH_ROWS = 5_000
MAX_WAITING_ROWS = 20_000
# A large record counts as several rows, so that bounds in rows are bounds of memory too.
_ROW_BYTES = 512
_PORT_BYTES = 6
_FIRST_RETRY, _LAST_RETRY = 0.1, 5.0  # seconds


class Offer(msgspec.Struct, eq=False):
    """What one message brings, how many rows it counts as, and the future that learns which were new."""

    deposit: Deposit
    rows: int
    future: asyncio.Future[list[bool]]
    failed_alone: bool = False


class Batcher:
    """Collects offers for one store and commits them in batches, in the order of their arrival."""

    def __init__(
        self,
        store: TelemetryStore,
        *,
        max_batch_rows: int = MAX_BATCH_ROWS,
        max_waiting_rows: int = MAX_WAITING_ROWS,
    ) -> None:
        self._store = store
        self._max_batch_rows = max_batch_rows
        self._max_waiting_rows = max_waiting_rows
        self._waiting: deque[Offer] = deque()
        self._waiting_rows = 0
        self._work = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self._closing = asyncio.Event()
        self._problem: str | None = None
        self._retry_after = _FIRST_RETRY

    @property
    def problem(self) -> str | None:
        """Why nothing can be stored at the moment, or None."""
        return self._problem

    @property
    def has_room(self) -> bool:
        """Whether no more waits than may."""
        return self._space.is_set()

    async def room(self) -> None:
        """Wait while more waits than may."""
        await self._space.wait()

    def offer(self, deposit: Deposit) -> asyncio.Future[list[bool]]:
        """Have what a message brings committed together; the future tells for each record whether it was new.

        It fails with `Rejected` (`internal`) when the store can never take them, and with `Unavailable` when
        the server stops before it could store them.
        """
        future: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        # A number without records is a row too.
        offer = Offer(deposit, sum(map(_rows, deposit.records)) or 1, future)
        self._waiting.append(offer)
        self._waiting_rows += offer.rows
        if self._waiting_rows >= self._max_waiting_rows:
            self._space.clear()
        self._work.set()
        return future

    async def run(self) -> None:
        """Commit until `close`; what waits by then is still committed, unless the store is down."""
        while self._waiting or not self._closing.is_set():
            await self._work.wait()
            if self._waiting:
                await self._commit(self._take())
            if not self._waiting and not self._closing.is_set():
                self._work.clear()

    def close(self) -> None:
        """Have `run` return once nothing waits any more."""
        self._closing.set()
        self._work.set()

    def _take(self) -> list[Offer]:
        batch = [self._waiting.popleft()]
        rows = batch[0].rows
        while self._waiting and rows + self._waiting[0].rows <= self._max_batch_rows:
            batch.append(self._waiting.popleft())
            rows += batch[-1].rows
        self._waiting_rows -= rows
        if self._waiting_rows < self._max_waiting_rows:
            self._space.set()
        return batch

    async def _commit(self, batch: list[Offer]) -> None:
        """Commit a batch, in parts where it cannot be committed as one, until the unstorable stands alone."""
        pending = [batch]
        while pending:
            part = pending.pop()
            try:
                flags = await self._store.store([offer.deposit for offer in part])
            except Unstorable as problem:
                self._go_on()
                pending.extend(_without_unstorable(part, problem))
            except Unavailable as problem:
                if self._closing.is_set():
                    for offer in (offer for rest in (part, *pending) for offer in rest):
                        _fail(offer, problem)
                    return
                await self._sit_out(problem)
                # It may have been too much for the store's memory.
                pending.extend(_halves(part))
            else:
                self._go_on()
                _tell(part, flags)

    async def _sit_out(self, problem: Unavailable) -> None:
        """Wait before the next try, longer each time, or until the server stops."""
        if self._problem is None:
            log.error("telemetry cannot be stored, senders wait: %s", problem)
        self._problem = str(problem)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._retry_after):
                await self._closing.wait()
        self._retry_after = min(self._retry_after * 2, _LAST_RETRY)

    def _go_on(self) -> None:
        """The store works."""
        if self._problem is not None:
            log.warning("telemetry is stored again")
        self._problem, self._retry_after = None, _FIRST_RETRY


def _rows(record: Record) -> int:
    if isinstance(record, Scan):
        return max(1, sum(map(_host_rows, record.hosts)))
    return 1 + len(record.extra or "") // _ROW_BYTES


def _host_rows(host: Host) -> int:
    names = len(host.hostname or "") + len(host.vendor or "")
    return 1 + (names + _PORT_BYTES * len(host.ports)) // _ROW_BYTES


def _without_unstorable(part: list[Offer], problem: Unstorable) -> list[list[Offer]]:
    """What to try next; an offer that fails alone twice is refused."""
    first, *others = part
    if others:
        return _halves(part)
    if not first.failed_alone:
        first.failed_alone = True
        return [part]
    log.error("a message cannot be stored and is refused: %s", problem)
    _fail(first, Rejected(Reason.INTERNAL, "the server cannot store this message"))
    return []


def _halves(part: list[Offer]) -> list[list[Offer]]:
    """Two parts, the first one last, since it is taken from the end; one offer stays whole."""
    middle = len(part) // 2
    return [part[middle:], part[:middle]] if middle else [part]


def _tell(part: list[Offer], flags: list[bool]) -> None:
    start = 0
    for offer in part:
        end = start + len(offer.deposit.records)
        if not offer.future.done():
            offer.future.set_result(flags[start:end])
        start = end


def _fail(offer: Offer, problem: Exception) -> None:
    if not offer.future.done():
        offer.future.set_exception(problem)
