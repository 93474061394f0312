"""Which agents are there. Any verified message makes an agent online; its will, or silence, offline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from pingup.clock import Clock
from pingup.errors import Unavailable
from pingup.model import Agent, Outcome, StatusReport
from pingup.model import Presence as Status
from pingup.ports import AgentStore
from pingup.services.live import Live

log = logging.getLogger(__name__)

SILENT_INTERVALS = 3
_TICK = 1.0  # seconds


class _State(msgspec.Struct):
    """What is known of one agent. `seen` and `turned` are by the server's clock, `born` by the agent's."""

    status: Status
    seen: datetime | None
    patience: timedelta
    quiet_since: datetime
    turned: datetime | None = None
    session: str | None = None
    born: datetime | None = None


class Presence:
    """Keeps presence in memory and writes it to the registry once a second."""

    def __init__(
        self,
        agents: AgentStore,
        live: Live,
        clock: Clock,
        *,
        offline_after: timedelta,
        on_birth: Callable[[str], None],
    ) -> None:
        """`on_birth` is told of every agent that begins a session."""
        self._agents = agents
        self._live = live
        self._clock = clock
        self._offline_after = offline_after
        self._on_birth = on_birth
        self._states: dict[str, _State] = {}
        self._dirty: set[str] = set()
        self._turned = False

    def load(self, agents: list[Agent]) -> None:
        """Start with what the registry knows; silence counts from now, since nobody could reach us before."""
        for agent in agents:
            self.add(agent)

    def add(self, agent: Agent) -> None:
        """Know an agent from now on, and show where it stands."""
        now = self._clock.now()
        self._states[agent.id] = _State(agent.status, agent.last_seen, self._offline_after, now)
        self._live.presence(agent.id, agent.status, agent.last_seen, now)

    def show(self) -> None:
        """Show where every agent stands, to a broker that may have forgotten."""
        now = self._clock.now()
        for agent_id, state in self._states.items():
            self._live.presence(agent_id, state.status, state.seen, now)

    def drop(self, agent_id: str) -> None:
        """Forget an agent."""
        self._states.pop(agent_id, None)
        self._dirty.discard(agent_id)

    def overlay(self, agent: Agent) -> Agent:
        """The agent with what is known of it now, not a second ago."""
        state = self._states.get(agent.id)
        if state is None:
            return agent
        return msgspec.structs.replace(agent, status=state.status, last_seen=state.seen)

    def heard(self, agent_id: str, at: datetime) -> None:
        """A verified message of this agent came in."""
        state = self._states.get(agent_id)
        if state is None:
            return
        state.seen = at if state.seen is None else max(state.seen, at)
        state.quiet_since = max(state.quiet_since, at)
        self._dirty.add(agent_id)
        # What came before the agent's will, and was only stored after it, does not bring the agent back.
        if state.status is not Status.ONLINE and (state.turned is None or at >= state.turned):
            self._turn(agent_id, state, Status.ONLINE, at)

    async def report(self, report: StatusReport, at: datetime) -> Outcome:
        """Take a birth or a will. A birth counts when it is newer, a will only for the current session.

        So an old one, or one sent again, neither ends a live session nor wakes a dead one.
        """
        state = self._states.get(report.agent_id)
        if state is None:
            return Outcome(duplicates=1)
        if not report.online:
            return await self._end_session(report, state, at)
        if state.born is not None and report.sent_at <= state.born:
            return Outcome(duplicates=1)
        state.session, state.born = report.session, report.sent_at
        if report.interval is not None:
            state.patience = timedelta(seconds=report.interval * SILENT_INTERVALS)
        self.heard(report.agent_id, at)
        # First, since a birth that can't be written now is known already when it is sent again.
        self._on_birth(report.agent_id)
        await self.flush()
        return Outcome(stored=1)

    async def _end_session(self, report: StatusReport, state: _State, at: datetime) -> Outcome:
        if state.session not in (None, report.session):
            return Outcome(duplicates=1)
        # Also of one that is offline already: what it sent before is stored later, and doesn't bring it back.
        state.turned = at
        if state.status is not Status.OFFLINE:
            self._turn(report.agent_id, state, Status.OFFLINE, at)
            await self.flush()
        return Outcome(stored=1)

    async def flush(self) -> None:
        """Write what changed to the registry."""
        dirty, self._dirty = self._dirty, set()
        self._turned = False
        states = [(agent_id, self._states[agent_id]) for agent_id in dirty]
        if not states:
            return
        try:
            await self._agents.mark([(agent_id, state.status, state.seen) for agent_id, state in states])
        except Unavailable:
            self._dirty |= dirty & self._states.keys()
            self._turned = True
            raise

    async def settle(self) -> None:
        """Have the registry know who is online before it is asked."""
        if self._turned:
            await self.flush()

    async def run(self) -> None:
        """Notice silence and write to the registry, once a second."""
        while True:
            self._notice_silence()
            try:
                await self.flush()
            except Unavailable as problem:
                log.warning("presence cannot be written and is tried again: %s", problem)
            await asyncio.sleep(_TICK)

    def _notice_silence(self) -> None:
        now = self._clock.now()
        for agent_id, state in self._states.items():
            if state.status is Status.ONLINE and now - state.quiet_since > state.patience:
                self._turn(agent_id, state, Status.OFFLINE, now)

    def _turn(self, agent_id: str, state: _State, status: Status, at: datetime) -> None:
        state.status, state.turned = status, at
        self._turned = True
        self._dirty.add(agent_id)
        self._live.presence(agent_id, status, state.seen, at)
