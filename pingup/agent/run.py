"""The agent, put together: who owns what, and the order of opening and closing."""

from __future__ import annotations

import asyncio

from pingup.agent import messages
from pingup.agent.actions import Actions
from pingup.agent.collect import Collector
from pingup.agent.commands import WORKERS, Commands
from pingup.agent.discover import Discovery
from pingup.agent.identity import identity_of
from pingup.agent.inbox import Inbox
from pingup.agent.journal import Journal
from pingup.agent.link import Link
from pingup.agent.reports import Reports
from pingup.agent.schedule import Pace
from pingup.agent.sender import Sender
from pingup.agent.settings import AgentSettings
from pingup.agent.spool import Spool
from pingup.agent.tuning import Tuner
from pingup.clock import Clock, SystemClock
from pingup.errors import Unavailable, Unusable
from pingup.topics import Kind

UNREACHABLE = 5
# The processor's load is an average over the time before a measurement, so the first one waits a little.
FIRST_SAMPLE = 1.0


class Agent:
    """One agent. `run` is ended by cancelling it, and then says that the agent is gone."""

    def __init__(self, settings: AgentSettings, clock: Clock | None = None) -> None:
        """
        Raises:
            Unusable: a key or a certificate is missing or unreadable (exit code 2).
        """
        self._settings = settings
        self._clock = clock or SystemClock()
        self._identity = identity_of(settings)
        self._tuner = Tuner(settings, settings.home / "remote.json", self._identity.token)
        self._link = Link(settings, self._identity, self._clock, lambda: self._tuner.current.interval)
        self._collector = Collector(settings.broker)
        self._spool = Spool(settings.home / "spool.db", settings.spool)
        self._discovery = Discovery(self._identity.agent_id, self._spool, self._tuner, self._clock)

    async def run(self) -> None:
        """Report and obey until cancelled.

        Raises:
            Unusable: the broker does not let this agent in (exit code 4), or its directory can't be used.
        """
        await self._tuner.load()
        async with Journal.open(self._settings.home / "journal.db") as journal, self._spool.open():
            await journal.interrupt()
            try:
                await self._work(journal)
            except* Unusable as problems:
                unusable = problems
            else:
                return
            raise unusable.exceptions[0]

    async def _work(self, journal: Journal) -> None:
        reports = Reports(self._identity, self._link, journal, self._clock)
        actions = Actions(self._settings, self._tuner, self._discovery, self._clock)
        commands = Commands(self._identity, journal, actions, reports, self._clock)
        pace = Pace(self._settings.spool.rate, self._settings.spool.resend)
        sender = Sender(self._identity, self._spool, self._link, pace)
        inbox = Inbox(self._identity, self._tuner, commands, reports, sender)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._link.run(inbox), name="link")
            tasks.create_task(reports.run(), name="reports")
            tasks.create_task(self._measure(), name="measure")
            tasks.create_task(self._spool.run(), name="spool")
            tasks.create_task(sender.run(), name="sender")
            tasks.create_task(self._announce(), name="announce")
            tasks.create_task(self._discovery.run(), name="discovery")
            for number in range(WORKERS):
                tasks.create_task(commands.work(), name=f"commands-{number}")

    async def run_once(self) -> None:
        """Connect, send one sample, and go: a check of the address and the credentials.

        Raises:
            Unusable: the broker does not let this agent in (4), or can't be reached (5).
        """
        await self._tuner.load()
        try:
            async with self._link.session():
                await asyncio.sleep(FIRST_SAMPLE)
                # Past the spool: it arrives now or not at all.
                if not await self._link.publish(Kind.METRICS, self._identity.sign(await self._sample())):
                    raise Unavailable("the broker did not acknowledge the sample")
        except Unavailable as problem:
            raise Unusable(str(problem), UNREACHABLE) from problem

    async def _measure(self) -> None:
        """Take a sample every interval, and at once when the settings have changed."""
        loop = asyncio.get_running_loop()
        tuning = self._tuner.current
        due = loop.time() + min(FIRST_SAMPLE, tuning.interval)
        while True:
            await self._tuner.hold(lambda current: current, tuning, due - loop.time())
            tuning = self._tuner.current
            late = loop.time() - due
            # In step, unless the settings have changed or the machine was asleep.
            due += tuning.interval if 0 <= late < tuning.interval else late + tuning.interval
            self._spool.put(Kind.METRICS, await self._sample())

    async def _sample(self) -> bytes:
        now = self._clock.now()
        measurement = await self._collector.measure(self._tuner.current)
        return messages.metrics(self._identity.agent_id, now, measurement)

    async def _announce(self) -> None:
        """Tell the server when the agent reports more or less often than it said at its birth."""
        while True:
            interval = self._tuner.current.interval
            await self._tuner.hold(lambda current: current.interval, interval)
            await self._link.announce()
