"""The journey of a command: verify → read → write down → queue → run → report, and never twice."""

from __future__ import annotations

import asyncio
import logging

from pingup.agent.actions import Actions, Ended
from pingup.agent.identity import Identity
from pingup.agent.journal import Entry, Journal, JournalFull
from pingup.agent.messages import Order, read_order
from pingup.agent.reports import Reports
from pingup.clock import Clock
from pingup.codec import encode
from pingup.errors import Rejected, Unavailable
from pingup.model import CommandStatus

MAX_WAITING = 64
WORKERS = 4
_log = logging.getLogger(__name__)


class Commands:
    """Takes commands from the link and runs a few of them at a time."""

    def __init__(
        self, identity: Identity, journal: Journal, actions: Actions, reports: Reports, clock: Clock
    ) -> None:
        self._identity = identity
        self._journal = journal
        self._actions = actions
        self._reports = reports
        self._clock = clock
        self._waiting: asyncio.Queue[Order] = asyncio.Queue(MAX_WAITING)

    async def receive(self, payload: bytes) -> None:
        """Take a message from the topic of commands; what is none of the server's is logged and ignored."""
        try:
            self._identity.verify(payload)
            order = read_order(self._identity.agent_id, payload)
        except Rejected as problem:
            _log.warning("ignored a command: %s", problem)
            return
        try:
            await self._accept(order)
        except JournalFull as problem:
            _log.error("refused command %r: %s", order.command_id, problem)
            self._reports.command(Entry(order.command_id, CommandStatus.REJECTED, _error(str(problem))))
        except Unavailable as problem:
            # It was not acknowledged, so the server sends it again.
            _log.error("left command %r for later: %s", order.command_id, problem)

    async def _accept(self, order: Order) -> None:
        now = self._clock.now()
        if order.expires_at <= now:
            _log.warning("ignored command %r: it has expired", order.command_id)
            return
        known = await self._journal.begin(order.command_id, order.expires_at, now)
        if known is not None:
            # The server sends it again because it has missed the answer.
            self._reports.command(known)
            return
        try:
            self._waiting.put_nowait(order)
        except asyncio.QueueFull:
            busy = _error(f"{MAX_WAITING} commands are waiting already")
            await self._end(order.command_id, Ended(CommandStatus.REJECTED, busy))
            return
        self._reports.progress(order.command_id, CommandStatus.ACKNOWLEDGED)

    async def report_ends(self) -> None:
        """Tell the server of all ends that it may not know of."""
        try:
            for entry in await self._journal.unreported():
                self._reports.command(entry)
        except Unavailable as problem:
            _log.error("cannot tell how commands have ended: %s", problem)

    async def work(self) -> None:
        """Run commands one after the other, until cancelled; there are `WORKERS` of these."""
        while True:
            order = await self._waiting.get()
            try:
                await self._run(order)
            except Unavailable as problem:
                _log.error("command %r: %s", order.command_id, problem)

    async def _run(self, order: Order) -> None:
        _log.info("command %r: %r", order.command_id, order.action)
        if order.expires_at <= self._clock.now():
            ended = Ended(CommandStatus.REJECTED, _error("expired before its turn came"))
        else:
            self._reports.progress(order.command_id, CommandStatus.RUNNING)
            ended = await self._actions.perform(order.action, order.params)
        _log.info("command %r: %s", order.command_id, ended.status.value)
        await self._end(order.command_id, ended)

    async def _end(self, command_id: str, ended: Ended) -> None:
        try:
            await self._journal.end(command_id, ended.status, ended.result)
        finally:
            # Also when the journal can't take it: the server should know.
            self._reports.command(Entry(command_id, ended.status, ended.result))


def _error(text: str) -> bytes:
    return encode({"error": text})
