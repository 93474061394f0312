"""The uplink: one journey for everything that agents send, by MQTT or by REST.

    key of → verify → decode → check identity and time → offer → committed → announced

The edge that brought the message acknowledges when its future resolves, or when it fails with `Rejected`.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import msgspec

from pingup import codec, signing
from pingup.crew import Crew
from pingup.errors import Reason, Rejected, Unavailable
from pingup.model import (
    AgentKey,
    CommandReport,
    ConfigReport,
    Deposit,
    Inbound,
    Message,
    Outcome,
    Record,
    Run,
    SampleVerdict,
    StatusReport,
    TelemetryReport,
)
from pingup.services import numbering
from pingup.services.batching import Batcher
from pingup.services.commands import Commands
from pingup.services.configs import Configs
from pingup.services.keyring import Keyring
from pingup.services.live import Live
from pingup.services.presence import Presence
from pingup.services.receipts import Receipts
from pingup.services.rejects import Rejects
from pingup.services.timekeeping import Timekeeper

MAX_IN_HAND = 1_000
MAX_SHOWN_ID = 64  # characters
PATIENCE = 10.0  # seconds that a REST call waits for its commit


class Window(msgspec.Struct, frozen=True):
    """How far a timestamp may lie behind and ahead of the server's clock."""

    past: timedelta
    future: timedelta


class _Judged(msgspec.Struct, frozen=True):
    """Telemetry after its times were checked: what is to be stored, and what of a batch is not."""

    records: tuple[Record, ...]
    verdicts: tuple[SampleVerdict, ...] = ()
    batch: bool = False


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
        live: Live,
        receipts: Receipts,
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
        self._live = live
        self._receipts = receipts
        self._rejects = rejects
        self._window = window
        self._timekeeper = timekeeper
        self._crew = crew
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
        try:
            async with asyncio.timeout(PATIENCE):
                await self.room()
                return await asyncio.shield(self.submit(inbound))
        except TimeoutError as problem:
            raise Unavailable(
                self._batcher.problem or "the server is busy storing what came before"
            ) from problem

    def submit(self, inbound: Inbound) -> asyncio.Future[Outcome]:
        """Take a message. The future resolves once it is committed.

        It fails with `Rejected` when the message is not taken (counted already, to be acknowledged), and with
        `Unavailable` when it could not be stored (not to be acknowledged).
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        try:
            message = self._open(inbound)
            if isinstance(message, TelemetryReport):
                self._offer(inbound, message, future)
            else:
                self._hand_over(inbound, message, future)
        except (Rejected, Unavailable) as problem:
            self._fail(inbound, problem, future)
        return future

    async def drain(self) -> None:
        """Return once everything that was taken has been told its end."""
        while self._in_hand:
            await asyncio.wait(self._in_hand)

    # --- the verbs ---------------------------------------------------------------------------------

    def _open(self, inbound: Inbound) -> Message:
        key = self._key_of(inbound.agent_id)
        codec.check_size(inbound.kind, inbound.payload)
        signing.verify(inbound.payload, key)
        message = codec.decode(inbound.kind, inbound.payload)
        if message.agent_id != inbound.agent_id:
            claimed = message.agent_id[:MAX_SHOWN_ID]
            detail = f"the message says agentId {claimed!r}, it came as {inbound.agent_id}"
            raise Rejected(Reason.WRONG_AGENT, detail)
        if isinstance(message, CommandReport) and inbound.command_id not in (None, message.command_id):
            detail = f"the message is about command {message.command_id!r}, it came for {inbound.command_id}"
            raise Rejected(Reason.INVALID, detail)
        # A will is signed when its session begins and may be sent long after.
        self._check_time(message.sent_at, inbound.received_at, past=not isinstance(message, StatusReport))
        return message

    def _key_of(self, agent_id: str) -> AgentKey:
        key = self._keyring.key_of(agent_id)
        if key is None:
            raise Rejected(Reason.UNKNOWN_AGENT, f"there is no agent {agent_id}")
        return key

    def _check_time(self, moment: datetime, now: datetime, *, past: bool = True) -> None:
        if moment - now > self._window.future:
            if self._timekeeper.problem is not None:
                raise Unavailable(self._timekeeper.problem)
            ahead = (moment - now).total_seconds()
            raise Rejected(
                Reason.FROM_THE_FUTURE,
                f"the timestamp is {ahead:,.0f} s ahead of the server's clock, "
                f"{self._window.future.total_seconds():,.0f} s are allowed",
            )
        if past and now - moment > self._window.past:
            raise Rejected(
                Reason.TOO_OLD,
                f"the timestamp is {(now - moment).days} days old, {self._window.past.days} are allowed",
            )

    def _offer(self, inbound: Inbound, message: TelemetryReport, future: asyncio.Future[Outcome]) -> None:
        judged = self._judge(inbound, message)
        if not judged.records:
            first = judged.verdicts[0]
            detail = f"all {len(judged.verdicts)} samples are refused; the first: {first.detail}"
            raise Rejected(first.reason, detail)
        run = None
        if message.numbering is not None:
            run = numbering.stored(inbound, message.numbering, judged.records)
        commit = self._batcher.offer(Deposit(judged.records, run))
        commit.add_done_callback(lambda done: self._settle(inbound, judged, run, done, future))

    def _judge(self, inbound: Inbound, message: TelemetryReport) -> _Judged:
        """Of a batch each sample is judged by itself for its time."""
        if not message.batch:
            return _Judged(message.records)
        records: list[Record] = []
        verdicts: list[SampleVerdict] = []
        for index, record in enumerate(message.records):
            try:
                self._check_time(record.timestamp, inbound.received_at)
            except Rejected as refusal:
                verdicts.append(SampleVerdict(index, refusal.reason, refusal.detail))
            else:
                records.append(record)
        return _Judged(tuple(records), tuple(verdicts), batch=True)

    def _settle(
        self,
        inbound: Inbound,
        judged: _Judged,
        run: Run | None,
        commit: asyncio.Future[list[bool]],
        future: asyncio.Future[Outcome],
    ) -> None:
        """Tell the edge what became of its records, then everybody else."""
        problem = commit.exception()
        if problem is not None:
            self._fail(inbound, problem, future)
            return
        new = [record for record, is_new in zip(judged.records, commit.result(), strict=True) if is_new]
        repeats = len(judged.records) - len(new)
        future.set_result(Outcome(len(new), repeats, judged.verdicts, judged.batch))
        for verdict in judged.verdicts:
            self._note(inbound, verdict.reason, f"sample {verdict.index}: {verdict.detail}")
        self._timekeeper.witness(max(record.timestamp for record in judged.records))
        self._presence.heard(inbound.agent_id, inbound.received_at)
        if run is not None:
            self._receipts.settle(run)
        # What is retained of an agent that was removed in the meantime has been cleared already.
        if self._keyring.key_of(inbound.agent_id) is not None:
            self._live.stored(new)

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

    def _refuse(self, inbound: Inbound, refusal: Rejected, future: asyncio.Future[Outcome]) -> None:
        self._note(inbound, refusal.reason, refusal.detail)
        _set_exception(future, refusal)
        key = self._keyring.key_of(inbound.agent_id)
        run = numbering.refused(inbound, refusal.reason, key)
        if run is not None:
            mark = self._batcher.offer(Deposit((), run))
            mark.add_done_callback(lambda done: self._settle_refused(run, done))

    def _settle_refused(self, run: Run, commit: asyncio.Future[list[bool]]) -> None:
        # One that could not be stored is none: the agent sends its message again, and it is refused again.
        if commit.exception() is None:
            self._receipts.settle(run)

    def _note(self, inbound: Inbound, reason: Reason, detail: str) -> None:
        self._rejects.note(agent_id=inbound.agent_id, source=inbound.source, reason=reason, detail=detail)


def _set_exception(future: asyncio.Future[Outcome], problem: BaseException) -> None:
    future.set_exception(problem)
    # An edge whose peer has gone never asks; what was wrong is counted already.
    future.exception()
