"""The way in from a broker elsewhere: from our session there to the server's ingest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from itertools import count

from pingup.backoff import full_jitter
from pingup.brokers.edge import Edge
from pingup.brokers.session import Client, Connection, Message, Options, Subscription
from pingup.brokers.session.unacknowledged import Verdict
from pingup.clock import Clock
from pingup.errors import Reason, Rejected, Unavailable
from pingup.model import Inbound, Outcome
from pingup.topics import UP_ALL, Kind, owner_of, parse_up

FULL_FOR = 30.0  # seconds without room before the broker is told, by a disconnect
LEAVE_WITHIN = 5.0  # seconds for commits at the end

_TELEMETRY = (Kind.METRICS, Kind.DISCOVERY)
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 5.0  # seconds before a message is tried again

_SHOWN = 256  # characters of a topic that is refused
# What the server itself clears there must not come back to it.
_SUBSCRIPTION = Subscription(UP_ALL, retained_once=True, own=False)


class Intake:
    """Takes what agents publish, and stops reading while the server has no room.

    A broker keeps what a session has not acknowledged, so nothing is lost meanwhile. When it lasts, the
    connection is given back, and there is a new one as soon as there is room.
    """

    def __init__(
        self,
        options: Callable[[], Options],
        edge: Edge,
        clock: Clock,
        *,
        on_connected: Callable[[Connection], None],
    ) -> None:
        """`options` are asked for at each attempt to connect."""
        self.client = Client(
            options,
            (_SUBSCRIPTION,),
            on_messages=self._take,
            on_connected=on_connected,
            may_connect=edge.ingest.room,
        )
        self._edge = edge
        self._clock = clock
        self._is_full = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._insisting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take messages until cancelled, or until `leave`."""
        await self._edge.may_connect()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            waiting = tasks.create_task(self._wait_for_room(), name="room")
            await self.client.run()
            waiting.cancel()
            for task in self._insisting:
                task.cancel()

    async def leave(self, farewell: Callable[[Connection], None]) -> None:
        """Read nothing more, acknowledge what is committed, and disconnect; the session is kept."""
        await self.client.leave(farewell, LEAVE_WITHIN)

    def _take(self, messages: list[Message]) -> list[Verdict | None]:
        now = self._clock.now()
        verdicts = [self._judge(message, now) for message in messages]
        if not self._edge.ingest.has_room:
            self.client.pause_reading()
            self._is_full.set()
        return verdicts

    def _judge(self, message: Message, now: datetime) -> Verdict | None:
        named = parse_up(message.topic)
        if named is None:
            self._edge.rejects.note(
                agent_id=owner_of(message.topic),
                source=message.topic[:_SHOWN],
                reason=Reason.UNKNOWN_KIND,
                detail="there is no such kind of message",
            )
            return None
        agent_id, kind = named
        if kind is Kind.STATUS and not message.payload:
            return None  # a birth that is retained no more; who deletes an agent has it cleared
        inbound = Inbound(kind, agent_id, message.payload, now, message.topic)
        if kind in _TELEMETRY:
            return self._edge.ingest.take(inbound)
        return self._until_taken(inbound, self._edge.ingest.submit(inbound))

    # --- what the registry keeps -------------------------------------------------------------------

    def _until_taken(self, inbound: Inbound, verdict: asyncio.Future[Outcome]) -> asyncio.Future[Outcome]:
        """A verdict that is never `Unavailable`: that would end the connection.

        While the registry is down, one report would come back first with every new connection, and no
        telemetry behind it would ever be acknowledged.
        """
        assert self._tasks is not None  # noqa: S101 - messages come only while it runs
        assert self.client.latest is not None  # noqa: S101 - it is what has brought the message
        taken: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        insisting = self._insist(inbound, verdict, taken, self.client.latest)
        task = self._tasks.create_task(insisting, name="insist")
        self._insisting.add(task)
        task.add_done_callback(self._insisting.discard)
        return taken

    async def _insist(
        self,
        inbound: Inbound,
        verdict: asyncio.Future[Outcome],
        taken: asyncio.Future[Outcome],
        connection: Connection,
    ) -> None:
        for attempt in count():
            try:
                # Shielded: it is the ingest's, and is settled also when nobody waits any more.
                taken.set_result(await asyncio.shield(verdict))
            except Rejected as refusal:
                taken.set_exception(refusal)
                taken.exception()  # a connection that is lost never asks
            except Unavailable:
                await asyncio.sleep(full_jitter(_FIRST_WAIT, _LONGEST_WAIT, attempt))
                if connection.is_open:
                    verdict = self._edge.ingest.submit(inbound)
                    continue
                # The next connection brings it again.
            return

    # --- room --------------------------------------------------------------------------------------

    async def _wait_for_room(self) -> None:
        while True:
            await self._is_full.wait()
            try:
                async with asyncio.timeout(FULL_FOR):
                    await self._edge.ingest.room()
            except TimeoutError:
                self.client.end("the server has no room for more messages; they wait in the broker")
                await self._edge.ingest.room()
            self._is_full.clear()
            self.client.resume_reading()
