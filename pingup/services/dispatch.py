"""Commands on their way: published when their agent can be reached, and again until it answers."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pingup.clock import Clock
from pingup.errors import Unavailable
from pingup.model import Command
from pingup.ports import CommandStore, Downlink
from pingup.services.downward import Signed
from pingup.services.errands import Errands
from pingup.topics import down_commands

log = logging.getLogger(__name__)

SEND_AGAIN_EVERY = 60.0  # seconds
# A birth comes right after the subscription, which has brought everything already.
_JUST_NOW = 5.0  # seconds


class Dispatch:
    """Publishes what is stored and undelivered, so whatever is lost on the way is sent anew.

    What an agent was told in the last minute is not repeated just because there is a new command; it is when
    the agent begins to listen anew, when it is born again, and in the next round.
    """

    def __init__(
        self,
        store: CommandStore,
        downlink: Downlink,
        clock: Clock,
        on_sent: Callable[[Command], Awaitable[object]],
    ) -> None:
        """`on_sent` is told of each command that an agent's connection has acknowledged."""
        self._store = store
        self._downlink = downlink
        self._clock = clock
        self._on_sent = on_sent
        self._errands = Errands(self._serve)
        # By agent and command: when it was published, on the loop's clock.
        self._told: dict[str, dict[str, float]] = {}
        # By agent: when it began to listen. A broker elsewhere never tells.
        self._listened: dict[str, float] = {}
        self._round_is_due = asyncio.Event()

    def wake(self, agent_id: str) -> None:
        """There is a new command for this agent."""
        self._errands.call(agent_id)

    def listening(self, agent_id: str) -> None:
        """The agent begins to get its commands: it is told all of them."""
        self._told.pop(agent_id, None)
        self._listened[agent_id] = asyncio.get_running_loop().time()
        self._errands.call(agent_id)

    def born(self, agent_id: str) -> None:
        """The agent begins a session: it is told all but what it was told a moment ago, while it listened."""
        recently = asyncio.get_running_loop().time() - _JUST_NOW
        since = max(recently, self._listened.get(agent_id, math.inf))
        told = self._told.get(agent_id, {})
        self._told[agent_id] = {name: at for name, at in told.items() if at >= since}
        self._errands.call(agent_id)

    def reachable(self) -> None:
        """The broker is there (again): all agents are told what waits for them, at once."""
        self._round_is_due.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._errands.run(), name="deliveries")
            tasks.create_task(self._go_round(), name="rounds")

    async def _go_round(self) -> None:
        while True:
            self._told.clear()
            self._listened.clear()
            try:
                for command in await self._store.undelivered(None, self._clock.now()):
                    self._errands.call(command.agent_id)
            except Unavailable as problem:
                log.warning("commands wait for the registry: %s", problem)
            with suppress(TimeoutError):
                async with asyncio.timeout(SEND_AGAIN_EVERY):
                    await self._round_is_due.wait()
            self._round_is_due.clear()

    async def _serve(self, agent_id: str) -> None:
        """Publish what waits for one agent, oldest first, none waiting for another's acknowledgement."""
        if not self._downlink.is_listening(agent_id):
            return
        try:
            waiting = await self._store.undelivered(agent_id, self._clock.now())
        except Unavailable as problem:
            log.warning("commands for %s are sent later: %s", agent_id, problem)
            return
        told = self._told.setdefault(agent_id, {})
        untold = [command for command in waiting if command.command_id not in told]
        now = asyncio.get_running_loop().time()
        told.update({command.command_id: now for command in untold})
        async with asyncio.TaskGroup() as tasks:
            for command in untold:
                tasks.create_task(self._send(command))

    async def _send(self, command: Command) -> None:
        message = Signed(command.signed, command.signature).message()
        topic = down_commands(command.agent_id)
        try:
            if await self._downlink.deliver(topic, message, expires_at=command.expires_at):
                await self._on_sent(command)
        except Unavailable as problem:
            log.warning("command %s is sent again later: %s", command.command_id, problem)
