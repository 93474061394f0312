"""Commands: stored first, then signed, sent and sent again until the agent answers or their time is over.

    pending → sent → acknowledged → running → completed | failed | rejected
    pending, sent → expired | cancelled

Steps may be skipped forward, none goes back, and only a message of the agent makes a command acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from datetime import datetime, timedelta
from typing import Any

import msgspec

from pingup.clock import Clock
from pingup.errors import Conflict, Invalid, NotFound, Reason, Rejected, Unavailable
from pingup.model import Command, CommandReport, CommandStatus, Outcome
from pingup.ports import CommandStore, Downlink
from pingup.services.dispatch import Dispatch
from pingup.services.downward import Downward
from pingup.services.keyring import Keyring
from pingup.services.live import Live

log = logging.getLogger(__name__)

DEFAULT_TTL = timedelta(hours=1)
MAX_TTL = timedelta(days=30)
_TICK = 1.0  # seconds

_S = CommandStatus
_WAITING = (_S.PENDING, _S.SENT)
_UNDER_WAY = (_S.ACKNOWLEDGED, _S.RUNNING)
_AGENTS_ENDS = (_S.COMPLETED, _S.FAILED, _S.REJECTED)

# By state: the states that it may follow.
TRANSITIONS: dict[CommandStatus, tuple[CommandStatus, ...]] = {
    _S.SENT: (_S.PENDING,),
    _S.ACKNOWLEDGED: _WAITING,
    _S.RUNNING: (*_WAITING, _S.ACKNOWLEDGED),
    _S.COMPLETED: (*_WAITING, *_UNDER_WAY),
    _S.FAILED: (*_WAITING, *_UNDER_WAY),
    _S.REJECTED: (*_WAITING, *_UNDER_WAY),
    _S.EXPIRED: _WAITING,
    _S.CANCELLED: _WAITING,
}


def late_truth(command: Command, report: CommandReport) -> tuple[CommandStatus, ...]:
    """The given-up states that a report may still follow, since the agent had the command in time.

    What it says it did before the command's end of life is recorded when it comes late. An end is also
    recorded later, and after a cancellation, if the command had been sent: the agent may have been at it.
    """
    was_sent = any(change.status is _S.SENT for change in command.history)
    ran = report.status in _AGENTS_ENDS and was_sent
    in_time = report.sent_at <= command.expires_at
    return (*((_S.EXPIRED,) if in_time or ran else ()), *((_S.CANCELLED,) if ran else ()))


class Commands:
    """Makes commands, brings them to agents and keeps what agents say of them."""

    def __init__(
        self,
        store: CommandStore,
        keyring: Keyring,
        downward: Downward,
        downlink: Downlink,
        live: Live,
        clock: Clock,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._downward = downward
        self._live = live
        self._clock = clock
        self._dispatch = Dispatch(store, downlink, clock, lambda command: self._move(command, _S.SENT))

    # --- for operators -----------------------------------------------------------------------------

    async def create(
        self, agent_id: str, action: str, params: dict[str, Any], ttl: timedelta = DEFAULT_TTL
    ) -> Command:
        """Store a command for an agent; it is sent as soon as the agent can be reached.

        Raises:
            NotFound: there is no such agent.
            Invalid: the parameters are too large or nested too deep.
        """
        key = self._keyring.key_of(agent_id)
        if key is None:
            raise NotFound(f"there is no agent {agent_id}")
        now = self._clock.now()
        command_id = f"CMD-{secrets.token_hex(12)}"
        members = {
            "agentId": agent_id,
            "commandId": command_id,
            "action": action,
            "params": params,
            "issuedAt": now,
            "expiresAt": now + ttl,
        }
        signed = self._downward.sign(key, members, "params")
        command = Command(
            command_id,
            agent_id,
            action,
            params,
            _S.PENDING,
            msgspec.Raw(b"null"),
            now,
            now + ttl,
            signed.text,
            signed.signature,
        )
        await self._store.add(command)
        self._live.command(command, now)
        self._dispatch.wake(agent_id)
        return command

    async def get(self, command_id: str) -> Command:
        """The command with its history.

        Raises:
            NotFound: there is no such command.
        """
        command = await self._store.get(command_id)
        if command is None:
            raise NotFound(f"there is no command {command_id}")
        return command

    async def page(
        self,
        *,
        agent_id: str | None,
        status: CommandStatus | None,
        limit: int,
        after: tuple[datetime, str] | None,
    ) -> list[Command]:
        """Commands, newest first."""
        return await self._store.page(agent_id=agent_id, status=status, limit=limit, after=after)

    async def cancel(self, command_id: str) -> Command:
        """Give up a command that the agent has not answered yet.

        Raises:
            NotFound: there is no such command.
            Conflict: it is under way, or has ended.
        """
        if not await self._move(await self.get(command_id), _S.CANCELLED):
            now = await self.get(command_id)
            raise Conflict(f"the command is {now.status.value} and can no longer be cancelled")
        return await self.get(command_id)

    # --- for agents --------------------------------------------------------------------------------

    async def pending(self, agent_id: str, *, fetched: bool) -> list[Command]:
        """What waits for an agent's answer, oldest first; `fetched` when the agent itself takes it."""
        commands = await self._store.undelivered(agent_id, self._clock.now())
        if not fetched:
            return commands
        for command in commands:
            await self._move(command, _S.SENT)
        return [msgspec.structs.replace(command, status=_S.SENT) for command in commands]

    async def report(self, report: CommandReport) -> Outcome:
        """Keep what an agent says of a command.

        Raises:
            Rejected: `not_found` for no command of this agent, `conflict` for a step back or another end.
        """
        command = await self._reported(report)
        late = late_truth(command, report)
        if await self._move(command, report.status, report.result, late):
            return Outcome(stored=1)
        now = await self._reported(report)
        if report.status in {change.status for change in now.history}:
            return Outcome(duplicates=1)
        detail = f"the command is {now.status.value} and cannot become {report.status.value}"
        raise Rejected(Reason.CONFLICT, detail)

    async def _reported(self, report: CommandReport) -> Command:
        command = await self._store.get(report.command_id)
        if command is None or command.agent_id != report.agent_id:
            detail = f"agent {report.agent_id} has no command {report.command_id}"
            raise Rejected(Reason.NOT_FOUND, detail)
        return command

    # --- dispatch ----------------------------------------------------------------------------------

    def listening(self, agent_id: str) -> None:
        """An agent begins to get its commands."""
        self._dispatch.listening(agent_id)

    def reachable(self) -> None:
        """The broker is there (again)."""
        self._dispatch.reachable()

    def born(self, agent_id: str) -> None:
        """An agent begins a session."""
        self._dispatch.born(agent_id)

    async def run(self) -> None:
        """Bring commands to agents and end those whose time is over, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._dispatch.run(), name="dispatch")
            tasks.create_task(self._keep_time(), name="expiry")

    async def _keep_time(self) -> None:
        while True:
            try:
                await self._expire()
            except Unavailable as problem:
                log.warning("commands expire later: %s", problem)
            await asyncio.sleep(_TICK)

    async def _expire(self) -> None:
        for command_id in await self._store.overdue(self._clock.now()):
            command = await self._store.get(command_id)
            # It may have gone with its agent meanwhile.
            if command is not None:
                await self._move(command, _S.EXPIRED)

    async def _move(
        self,
        command: Command,
        target: CommandStatus,
        result: str | None = None,
        late: tuple[CommandStatus, ...] = (),
    ) -> bool:
        """Change a command's state as the table allows, or from one of `late`; whether it was changed."""
        now = self._clock.now()
        sources = (*TRANSITIONS[target], *late)
        if not await self._store.move(command.command_id, sources, target, now, result):
            return False
        raw = command.result if result is None else msgspec.Raw(result.encode())
        self._live.command(msgspec.structs.replace(command, status=target, result=raw), now)
        return True


def check_ttl(ttl: timedelta) -> timedelta:
    """A command's lifetime within its bounds.

    Raises:
        Invalid: it is longer than 30 days or not positive.
    """
    if not timedelta() < ttl <= MAX_TTL:
        raise Invalid("bad ttl", {"ttl": "between 1s and 30d"})
    return ttl
