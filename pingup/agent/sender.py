"""The way from the spool to the broker: take what is due, number it, sign it, free what has arrived."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from pingup.agent import messages
from pingup.agent.identity import Identity
from pingup.agent.link import Link
from pingup.agent.messages import Receipt
from pingup.agent.schedule import Pace, Schedule
from pingup.agent.spool import Spool
from pingup.agent.spool_disk import Unwritten
from pingup.agent.spool_file import Stored
from pingup.errors import Unavailable

RETRY_PAUSE = 1.0
_log = logging.getLogger(__name__)


class Sender:
    """Brings what the spool holds to the broker; `run` does it."""

    def __init__(
        self,
        identity: Identity,
        spool: Spool,
        link: Link,
        pace: Pace,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds` is a clock that never goes back."""
        self._identity = identity
        self._spool = spool
        self._link = link
        self._pace = pace
        self._seconds = seconds
        self._schedule: Schedule | None = None
        # None as long as nothing was said in this session.
        self._server_is_there: bool | None = None
        self._bare: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        spool.watch(self._wake.set)

    # --- what comes down -----------------------------------------------------------------------------

    def session(self) -> None:
        """A session has begun."""
        self._server_is_there = None
        if self._schedule is not None:
            self._schedule.session(self._seconds())
        self._wake.set()

    def server(self, *, there: bool) -> None:
        """The server has said that it is there, or the broker that it is not."""
        self._server_is_there = there
        if self._schedule is not None:
            self._schedule.server(there=there, now=self._seconds())
        self._wake.set()

    def receipt(self, receipt: Receipt) -> None:
        """The server has said up to where it has everything."""
        schedule = self._schedule
        if schedule is None or receipt.stream != schedule.stream:
            _log.info("ignored a receipt for the stream %r, which is not this spool's", receipt.stream)
        elif receipt.seq > schedule.sent:
            # The device was set back to an older copy of its disk: the server knows others by these numbers.
            told = "the spool is numbered anew, since there is a receipt for %d, and %d was the last sent"
            _log.warning(told, receipt.seq, schedule.sent)
            self._spool.renumber(schedule.stream)
        else:
            self._spool.free(schedule.stream, schedule.receipt(receipt.seq))
            self._wake.set()

    # --- what goes up --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send whatever is due, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                schedule = self._take_stock()
                if self._link.connected.is_set():
                    self._send_bare(tasks)
                    if schedule is not None:
                        await self._wait(self._send(schedule, tasks))
                        continue
                await self._wait(None)

    async def _wait(self, pause: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()

    def _take_stock(self) -> Schedule | None:
        """The schedule of what the spool holds now, once that is known."""
        extent = self._spool.extent
        if extent is None:
            return None
        if self._schedule is None or self._schedule.stream != extent.stream:
            self._schedule = Schedule(extent, self._pace)
            if self._server_is_there is not None:
                self._schedule.server(there=self._server_is_there, now=self._seconds())
        self._schedule.extend(extent, fresh=self._link.connected.is_set())
        if self._schedule.proof is not extent.proof:
            self._spool.remember(extent.stream, self._schedule.proof)
        return self._schedule

    def _send(self, schedule: Schedule, tasks: asyncio.TaskGroup) -> float | None:
        """Send all that is due now; the seconds until more may be."""
        now = self._seconds()
        while (seq := schedule.next(now)) is not None:
            tasks.create_task(self._deliver(schedule, seq), name=f"message-{seq}")
        return schedule.pause(now)

    async def _deliver(self, schedule: Schedule, seq: int) -> None:
        """See a message that is in flight through to where it goes next."""
        try:
            stored = await self._spool.read(schedule.stream, seq)
        except Unavailable as problem:
            _log.debug("message %d has to wait: %s", seq, problem)
            await asyncio.sleep(RETRY_PAUSE)
            schedule.failed(seq)
        else:
            if stored is None or seq < schedule.first:
                schedule.vanished(seq)
            elif await self._publish(schedule, seq, stored):
                self._spool.free(schedule.stream, schedule.acknowledged(seq, self._seconds()))
            else:
                schedule.failed(seq)
        self._wake.set()

    async def _publish(self, schedule: Schedule, seq: int, stored: Stored) -> bool:
        # Numbered and signed only now: `first` is true at this moment, and the secret may be a newer one.
        body = messages.number(stored.body, schedule.stream, seq, schedule.first)
        return await self._link.deliver(stored.kind, self._identity.sign(body))

    def _send_bare(self, tasks: asyncio.TaskGroup) -> None:
        """Send what the disk does not take without a number, one message at a time: better so than not."""
        unwritten = self._spool.unwritten()
        if unwritten is not None and (self._bare is None or self._bare.done()):
            self._bare = tasks.create_task(self._deliver_bare(unwritten), name="unwritten-message")

    async def _deliver_bare(self, unwritten: Unwritten) -> None:
        message = unwritten.message
        if await self._link.deliver(message.kind, self._identity.sign(message.body)):
            self._spool.arrived(unwritten)
        self._wake.set()
