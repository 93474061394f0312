"""The uplink: one journey for everything that agents send, by MQTT or by REST.

    key of → verify → decode → check identity and time → offer → committed → announced

The edge that brought the message acknowledges when its future resolves, or when it fails with `Rejected`. An
edge that brings very many takes a future that they share, which only tells that they are settled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from pingup import codec
from pingup.crew import Crew
from pingup.errors import Reason, Rejected, Unavailable
from pingup.model import (
    AgentKey,
    CommandReport,
    ConfigReport,
    Inbound,
    Message,
    Outcome,
    Record,
    SampleVerdict,
    StatusReport,
    TelemetryReport,
)
from pingup.services import numbering
from pingup.services.batching import Batch, Batcher, Offer
from pingup.services.commands import Commands
from pingup.services.configs import Configs
from pingup.services.keyring import Keyring
from pingup.services.patience import Patience
from pingup.services.presence import Presence
from pingup.services.rejects import Rejects
from pingup.services.timekeeping import Timekeeper
from pingup.signing import Verifier
from pingup.topics import Kind

MAX_IN_HAND = 1_000
MAX_SHOWN_ID = 64  # characters
PATIENCE = 10.0  # seconds that a REST call waits for its commit


class Window(msgspec.Struct, frozen=True):
    """How far a timestamp may lie behind and ahead of the server's clock."""

    past: timedelta
    future: timedelta


_STATUS = Kind.STATUS
_FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)
_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)


class _Limits(msgspec.Struct, frozen=True):
    """The window at one moment: what lies outside is looked at more closely."""

    now: datetime
    earliest: datetime
    latest: datetime

    @classmethod
    def at(cls, now: datetime, window: Window) -> _Limits:
        past = min(window.past, now - _FIRST_MOMENT)
        future = min(window.future, _LAST_MOMENT - now)
        return cls(now, now - past, now + future)


class Ingest:
    """Takes messages in. One instance serves all edges."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        batcher: Batcher,
        presence: Presence,
        commands: Commands,
        configs: Configs,
        rejects: Rejects,
        window: Window,
        timekeeper: Timekeeper,
        crew: Crew,
    ) -> None:
        """`crew` owns the work on messages that are not telemetry."""
        self._keyring = keyring
        self._batcher = batcher
        self._presence = presence
        self._commands = commands
        self._configs = configs
        self._rejects = rejects
        self._verifier = Verifier()
        self._window = window
        self._limits: _Limits | None = None
        self._batch: Batch | None = None
        self._timekeeper = timekeeper
        self._crew = crew
        self._patience = Patience(self._why_waiting)
        self._in_hand: set[asyncio.Task[None]] = set()
        self._last_of: dict[str, asyncio.Task[None]] = {}
        self._has_hands = asyncio.Event()
        self._has_hands.set()

    @property
    def has_room(self) -> bool:
        """Whether the server can take more at the moment."""
        has_hands = self._has_hands.is_set()
        return has_hands and self._batcher.has_room and self._timekeeper.problem is None

    async def room(self) -> None:
        """Wait while the server can take no more; an edge that waits here stops reading its peer."""
        await self._timekeeper.right()
        await self._batcher.room()
        await self._has_hands.wait()

    async def receive(self, inbound: Inbound) -> Outcome:
        """Take a message and wait for its commit, for callers who can't wait long.

        Raises:
            Rejected: it is not taken; counted already.
            Unavailable: it could not be stored within 10 s. It may be later; sent again it is stored once.
        """
        if self._timekeeper.problem is not None:
            raise Unavailable(self._timekeeper.problem)
        if self.has_room:
            future = self.submit(inbound)
            if not future.done():
                self._patience.limit(future, PATIENCE)
            return await future
        try:
            async with asyncio.timeout(PATIENCE):
                await self.room()
                return await self.submit(inbound)
        except TimeoutError as problem:
            raise Unavailable(self._why_waiting()) from problem

    def _why_waiting(self) -> str:
        return self._batcher.problem or "the server is busy storing what came before"

    def submit(self, inbound: Inbound) -> asyncio.Future[Outcome]:
        """Take a message. The future resolves once it is committed.

        It fails with `Rejected` when the message is not taken (counted already, to be acknowledged), and with
        `Unavailable` when it could not be stored (not to be acknowledged).
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        try:
            message = self._open(inbound)
            if isinstance(message, TelemetryReport):
                self._offer(self._judge(inbound, message, future))
            else:
                self._hand_over(inbound, message, future)
        except (Rejected, Unavailable) as problem:
            self._fail(inbound, problem, future)
        return future

    def take(self, inbound: Inbound) -> asyncio.Future[None] | None:
        """Take a telemetry message that nobody waits for alone; None when there is nothing to wait for.

        The future is shared with others. It resolves once they are all committed or refused, and fails with
        `Unavailable` when that could not be: none of them is to be acknowledged then.
        """
        try:
            message = self._open(inbound)
            assert isinstance(message, TelemetryReport)  # noqa: S101 - what the kinds of telemetry decode to
            return self._offer(self._judge(inbound, message, None)).settled
        except Rejected as refusal:
            self._refuse(inbound, refusal)
            return None
        except Unavailable as problem:
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            failed.set_exception(problem)
            failed.exception()  # its connection may end before it asks
            return failed

    async def drain(self) -> None:
        """Return once everything that was taken has been told its end."""
        while self._in_hand:
            await asyncio.wait(self._in_hand)

    # --- the verbs ---------------------------------------------------------------------------------

    def _open(self, inbound: Inbound) -> Message:
        key = self._key_of(inbound.agent_id)
        codec.check_size(inbound.kind, inbound.payload)
        self._verifier.verify(inbound.payload, key)
        message = codec.decode(inbound.kind, inbound.payload)
        if message.agent_id != inbound.agent_id:
            claimed = message.agent_id[:MAX_SHOWN_ID]
            detail = f"the message says agentId {claimed!r}, it came as {inbound.agent_id}"
            raise Rejected(Reason.WRONG_AGENT, detail)
        named = inbound.command_id
        if named is not None and isinstance(message, CommandReport) and named != message.command_id:
            detail = f"the message is about command {message.command_id!r}, it came for {named}"
            raise Rejected(Reason.INVALID, detail)
        # A will is signed when its session begins and may be sent long after.
        self._check_time(message.sent_at, inbound.received_at, past=inbound.kind is not _STATUS)
        return message

    def _key_of(self, agent_id: str) -> AgentKey:
        key = self._keyring.key_of(agent_id)
        if key is None:
            raise Rejected(Reason.UNKNOWN_AGENT, f"there is no agent {agent_id}")
        return key

    def _check_time(self, moment: datetime, now: datetime, *, past: bool = True) -> None:
        limits = self._limits
        if limits is None or limits.now is not now:
            limits = self._limits = _Limits.at(now, self._window)
        if moment > limits.latest:
            if self._timekeeper.problem is not None:
                raise Unavailable(self._timekeeper.problem)
            ahead = (moment - now).total_seconds()
            raise Rejected(
                Reason.FROM_THE_FUTURE,
                f"the timestamp is {ahead:,.0f} s ahead of the server's clock, "
                f"{self._window.future.total_seconds():,.0f} s are allowed",
            )
        if past and moment < limits.earliest:
            raise Rejected(
                Reason.TOO_OLD,
                f"the timestamp is {(now - moment).days} days old, {self._window.past.days} are allowed",
            )

    def _judge(
        self, inbound: Inbound, message: TelemetryReport, future: asyncio.Future[Outcome] | None
    ) -> Offer:
        """Of a batch each sample is judged by itself for its time."""
        records: tuple[Record, ...] = message.records
        verdicts: tuple[SampleVerdict, ...] = ()
        if message.batch:
            records, verdicts = self._judge_each(inbound, message.records)
        run = None
        if message.numbering is not None:
            run = numbering.stored(inbound, message.numbering, records)
        return Offer(inbound, records, run, verdicts, message.batch, future)

    def _judge_each(
        self, inbound: Inbound, records: Sequence[Record]
    ) -> tuple[tuple[Record, ...], tuple[SampleVerdict, ...]]:
        timely: list[Record] = []
        verdicts: list[SampleVerdict] = []
        for index, record in enumerate(records):
            try:
                self._check_time(record.timestamp, inbound.received_at)
            except Rejected as refusal:
                verdicts.append(SampleVerdict(index, refusal.reason, refusal.detail))
            else:
                timely.append(record)
        if not timely:
            first = verdicts[0]
            detail = f"all {len(verdicts)} samples are refused; the first: {first.detail}"
            raise Rejected(first.reason, detail)
        return tuple(timely), tuple(verdicts)

    def _offer(self, offer: Offer) -> Batch:
        batch = self._batcher.offer(offer)
        if batch is not self._batch:
            self._batch = batch
            batch.settled.add_done_callback(lambda _: self._settle(batch))
        return batch

    def _settle(self, batch: Batch) -> None:
        """Tell the senders whose messages were not stored; the others know already."""
        if batch is self._batch:
            self._batch = None
        for offer, refusal in batch.refused:
            self._refuse(offer.inbound, refusal, offer.future)
        problem = batch.settled.exception()
        if problem is not None:
            for offer in batch.offers:
                _set_exception(offer.future, problem)

    def _hand_over(
        self,
        inbound: Inbound,
        message: StatusReport | CommandReport | ConfigReport,
        future: asyncio.Future[Outcome],
    ) -> None:
        """Give a message to the service that it is for; those of one agent one after the other."""
        before = self._last_of.get(inbound.agent_id)
        task = self._crew.create_task(self._carry(before, inbound, message, future))
        self._last_of[inbound.agent_id] = task
        self._in_hand.add(task)
        if len(self._in_hand) >= MAX_IN_HAND:
            self._has_hands.clear()
        task.add_done_callback(lambda done: self._put_down(inbound.agent_id, done))

    async def _carry(
        self,
        before: asyncio.Task[None] | None,
        inbound: Inbound,
        message: StatusReport | CommandReport | ConfigReport,
        future: asyncio.Future[Outcome],
    ) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            outcome = await self._bring(message, inbound.received_at)
        except (Rejected, Unavailable) as problem:
            self._fail(inbound, problem, future)
        else:
            # Whoever waited may have gone, or lost patience.
            if not future.done():
                future.set_result(outcome)

    async def _bring(self, message: StatusReport | CommandReport | ConfigReport, at: datetime) -> Outcome:
        match message:
            case StatusReport():
                return await self._presence.report(message, at)
            case CommandReport():
                outcome = await self._commands.report(message)
                self._presence.heard(message.agent_id, at)
                return outcome
            case ConfigReport():
                outcome = await self._configs.report(message, at)
                self._presence.heard(message.agent_id, at)
                return outcome

    def _put_down(self, agent_id: str, task: asyncio.Task[None]) -> None:
        self._in_hand.discard(task)
        if len(self._in_hand) < MAX_IN_HAND:
            self._has_hands.set()
        if self._last_of.get(agent_id) is task:
            del self._last_of[agent_id]

    # --- refusals ----------------------------------------------------------------------------------

    def _fail(self, inbound: Inbound, problem: BaseException, future: asyncio.Future[Outcome]) -> None:
        if isinstance(problem, Rejected):
            self._refuse(inbound, problem, future)
        else:
            _set_exception(future, problem)

    def _refuse(
        self, inbound: Inbound, refusal: Rejected, future: asyncio.Future[Outcome] | None = None
    ) -> None:
        self._note(inbound, refusal.reason, refusal.detail)
        _set_exception(future, refusal)
        key = self._keyring.key_of(inbound.agent_id)
        run = numbering.refused(inbound, refusal.reason, key)
        if run is not None:
            # If it can't be stored, the agent sends its message again, and it is refused again.
            self._offer(Offer(inbound, (), run))

    def _note(self, inbound: Inbound, reason: Reason, detail: str) -> None:
        self._rejects.note(agent_id=inbound.agent_id, source=inbound.source, reason=reason, detail=detail)


def _set_exception(future: asyncio.Future[Outcome] | None, problem: BaseException) -> None:
    if future is not None and not future.done():
        future.set_exception(problem)
        # An edge whose peer has gone never asks; what was wrong is counted already.
        future.exception()
