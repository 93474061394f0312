"""What the agent answers to the server, in order: the life of commands, and of configurations.

Nothing waits here for a connection: what is lost was written down elsewhere and is said again at the next
birth (the journal's ends) or when it is asked for again (a retained configuration, a command sent again).
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from pingup.agent import messages
from pingup.agent.identity import Identity
from pingup.agent.journal import Entry, Journal
from pingup.agent.link import Link
from pingup.clock import Clock
from pingup.errors import Unavailable
from pingup.model import CommandStatus
from pingup.topics import Kind

MAX_WAITING = 1_024
_log = logging.getLogger(__name__)


class _Report(msgspec.Struct, frozen=True):
    """A signed message, and the command whose end it tells, if it does."""

    kind: Kind
    message: bytes
    ended: str | None = None


class Reports:
    """The queue of answers; `run` publishes them one after the other."""

    def __init__(self, identity: Identity, link: Link, journal: Journal, clock: Clock) -> None:
        self._identity = identity
        self._link = link
        self._journal = journal
        self._clock = clock
        self._waiting: asyncio.Queue[_Report] = asyncio.Queue(MAX_WAITING)

    def command(self, entry: Entry) -> None:
        """How far a command has come."""
        body = messages.result(
            self._identity.agent_id, self._clock.now(), entry.command_id, entry.status, entry.result
        )
        ended = None if entry.result is None else entry.command_id
        self._add(_Report(Kind.RESULTS, self._identity.sign(body), ended))

    def progress(self, command_id: str, status: CommandStatus) -> None:
        """A command is acknowledged, or running."""
        self.command(Entry(command_id, status, None))

    def config(self, version: int, error: str | None) -> None:
        """Whether a configuration was applied: it was if there is no error."""
        body = messages.config_report(self._identity.agent_id, self._clock.now(), version, error)
        self._add(_Report(Kind.CONFIG, self._identity.sign(body)))

    def _add(self, report: _Report) -> None:
        try:
            self._waiting.put_nowait(report)
        except asyncio.QueueFull:
            _log.warning("%d reports wait already: one was left out", MAX_WAITING)

    async def run(self) -> None:
        """Publish what is queued, until cancelled."""
        while True:
            report = await self._waiting.get()
            is_known = await self._link.publish(report.kind, report.message)
            if is_known and report.ended is not None:
                try:
                    await self._journal.reported(report.ended)
                except Unavailable as problem:
                    _log.error("%s; the end of %r will be told again", problem, report.ended)
