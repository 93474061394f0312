"""Group commit: what waits is committed together, then its batch is settled.

While one batch is being committed the next one gathers, so a lone message is committed at once and a flood
shares its commits. Nothing is dropped: when too much waits, senders do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from pingup.errors import Reason, Rejected, Unavailable, Unstorable
from pingup.model import Deposit, Host, Inbound, Outcome, Record, Run, Sample, SampleVerdict
from pingup.ports import TelemetryStore
from pingup.services.numbering import merged

log = logging.getLogger(__name__)

MAX_BATCH_ROWS = 5_000
MAX_WAITING_ROWS = 20_000
# A large record counts as several rows, so that bounds in rows are bounds of memory too.
_ROW_BYTES = 512
_PORT_BYTES = 6
# A commit costs as much as ten messages, so those of a moment share it; where many wait already it begins.
_APART = 0.002  # seconds from the beginning of one commit to that of the next
_ENOUGH = 500  # rows
_FIRST_RETRY, _LAST_RETRY = 0.1, 5.0  # seconds


class Offer(msgspec.Struct, eq=False):
    """What one message brings to be stored: its records, and if it is numbered which one it is.

    A refused message that is numbered brings no records. `verdicts` are those of a batch's samples that are
    not to be stored. `future` is whose sender waits for it alone.
    """

    inbound: Inbound
    records: tuple[Record, ...]
    run: Run | None = None
    verdicts: tuple[SampleVerdict, ...] = ()
    batch: bool = False
    future: asyncio.Future[Outcome] | None = None
    failed_alone: bool = False


class Stored(msgspec.Struct, frozen=True):
    """Offers that one transaction has stored, and for each of its records whether it was new."""

    offers: Sequence[Offer]
    deposit: Deposit
    is_new: list[bool]


class Batch:
    """Offers that are settled together.

    `settled` resolves once each of them is stored, or else in `refused`. It fails with `Unavailable` when the
    server stops before it could store them all.
    """

    __slots__ = ("offers", "refused", "rows", "settled")

    def __init__(self) -> None:
        self.offers: list[Offer] = []
        self.rows = 0
        self.refused: list[tuple[Offer, Rejected]] = []
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Batcher:
    """Collects offers for one store and commits them in batches, in the order of their arrival."""

    def __init__(
        self,
        store: TelemetryStore,
        announce: Callable[[Stored], None],
        *,
        max_batch_rows: int = MAX_BATCH_ROWS,
        max_waiting_rows: int = MAX_WAITING_ROWS,
    ) -> None:
        """`announce` is told of each transaction as soon as it is committed."""
        self._store = store
        self._announce = announce
        self._max_batch_rows = max_batch_rows
        self._max_waiting_rows = max_waiting_rows
        self._waiting: deque[Batch] = deque()
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

    def offer(self, offer: Offer) -> Batch:
        """Have what a message brings committed; the batch that it is settled with."""
        rows = _rows(offer.records)
        batch = self._waiting[-1] if self._waiting else None
        if batch is None or batch.rows + rows > self._max_batch_rows:
            batch = Batch()
            self._waiting.append(batch)
            self._work.set()
        batch.offers.append(offer)
        batch.rows += rows
        self._waiting_rows += rows
        if self._waiting_rows >= self._max_waiting_rows:
            self._space.clear()
        return batch

    async def run(self) -> None:
        """Commit until `close`; what waits by then is still committed, unless the store is down."""
        time = asyncio.get_running_loop().time
        begun_at = -math.inf
        while self._waiting or not self._closing.is_set():
            await self._work.wait()
            if self._waiting:
                await self._gather(begun_at + _APART - time())
                begun_at = time()
                await self._commit(self._take())
            if not self._waiting and not self._closing.is_set():
                self._work.clear()

    def close(self) -> None:
        """Have `run` return once nothing waits any more."""
        self._closing.set()
        self._work.set()

    async def _gather(self, seconds: float) -> None:
        """Let more come for so long, if anybody would gain by it."""
        if seconds > 0 and self._waiting_rows < _ENOUGH and not self._closing.is_set():
            await asyncio.sleep(seconds)

    def _take(self) -> Batch:
        batch = self._waiting.popleft()
        self._waiting_rows -= batch.rows
        if self._waiting_rows < self._max_waiting_rows:
            self._space.set()
        return batch

    async def _commit(self, batch: Batch) -> None:
        """Commit a batch, in parts where it cannot be committed as one, until the unstorable stands alone."""
        pending: list[Sequence[Offer]] = [batch.offers]
        while pending:
            part = pending.pop()
            try:
                deposit = _deposit(part)
                is_new = await self._store.store(deposit)
            except Unstorable as problem:
                self._go_on()
                pending.extend(_without_unstorable(batch, part, problem))
            except Unavailable as problem:
                if self._closing.is_set():
                    batch.settled.set_exception(problem)
                    batch.settled.exception()  # there may be nobody left who asks
                    return
                await self._sit_out(problem)
                # It may have been too much for the store's memory.
                pending.extend(_halves(part))
            else:
                self._go_on()
                if not pending:
                    batch.settled.set_result(None)
                self._announce(Stored(part, deposit, is_new))
        if not batch.settled.done():
            batch.settled.set_result(None)

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


def _deposit(offers: Sequence[Offer]) -> Deposit:
    records = [record for offer in offers for record in offer.records]
    return Deposit(records, merged([offer.run for offer in offers if offer.run is not None]))


def _rows(records: Sequence[Record]) -> int:
    rows = 0
    for record in records:
        # Asked of the other type, the same question costs ten times as much.
        if isinstance(record, Sample):
            rows += 1 if record.extra is None else 1 + len(record.extra) // _ROW_BYTES
        else:
            rows += max(1, sum(map(_host_rows, record.hosts)))
    # A number without records is a row too.
    return rows or 1


def _host_rows(host: Host) -> int:
    names = len(host.hostname or "") + len(host.vendor or "")
    return 1 + (names + _PORT_BYTES * len(host.ports)) // _ROW_BYTES


def _without_unstorable(batch: Batch, part: Sequence[Offer], problem: Unstorable) -> list[Sequence[Offer]]:
    """What to try next; an offer that fails alone twice is refused."""
    first, *others = part
    if others:
        return _halves(part)
    if not first.failed_alone:
        first.failed_alone = True
        return [part]
    log.error("a message cannot be stored and is refused: %s", problem)
    batch.refused.append((first, Rejected(Reason.INTERNAL, "the server cannot store this message")))
    return []


def _halves(part: Sequence[Offer]) -> list[Sequence[Offer]]:
    """Two parts, the first one last, since it is taken from the end; one offer stays whole."""
    middle = len(part) // 2
    return [part[middle:], part[:middle]] if middle else [part]
