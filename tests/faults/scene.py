"""What every case plays on: a server under load, a bystander, an obedient agent, and the count at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.load import Sender, messages
from tests.faults.machine import LIMIT, Broken, within
from tests.faults.message import Author, Device, Message, Mixture
from tests.faults.numbered import NumberedSender
from tests.faults.obedient import Obedient, Orders
from tests.faults.record import Record, count, read_rows
from tests.faults.stage import OBEDIENT, Mode, Setting, Stage

_BYSTANDER_PAUSE = 0.01  # seconds between its messages
# A broker outside takes more than any server stores: without a pause the case would be about the backlog.
_PAUSE_OUTSIDE = 0.002


@dataclass
class Outcome:
    """What came of one run. Times are seconds, `peak_rss` is MB (10⁶ bytes), counts are messages or rows."""

    seed: int
    messages: int = 0
    refused: int = 0
    lost: int = 0
    doubled: int = 0
    forged: int = 0
    recoveries: list[float] = field(default_factory=list)
    peak_rss: float = 0.0
    problems: list[str] = field(default_factory=list)
    taken_by_damage: int = 0
    """Messages that a damaged file did not give back; they were sent again."""


class Scene(Stage):
    """One run of a case, from an empty directory to the count."""

    bystander: Sender
    obedient: Obedient

    def __init__(self, directory: Path, seed: int, mode: Mode, share: float, setting: Setting) -> None:
        """`share` is how much of the usual load is made."""
        super().__init__(directory, mode, setting)
        self.chance = Random(seed)
        self.share = share
        self.mixture = Mixture(self.chance)
        self.record = Record()
        self.outcome = Outcome(seed)
        self.senders: dict[Sender, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._since = datetime.now(UTC) - timedelta(minutes=30)

    @asynccontextmanager
    async def set(self) -> AsyncIterator[None]:
        """Put everybody in place, and take everything away at the end, whatever has happened."""
        async with self.running() as (bystander, self.obedient):
            self._orders = Orders(self.obedient, self.server)
            try:
                self._giving = self.spawn(self._orders.give())
                numbered = self.setting.broker_forgets
                self.bystander = self.send(
                    bystander, numbered=numbered, direct=True, window=1, pause=_BYSTANDER_PAUSE, settle=0.02
                )
                yield
            finally:
                await self._cancel_tasks()

    # --- the load ------------------------------------------------------------------------------------

    def supply(self, device: Device, **options: Any) -> Iterator[Message]:
        """A device's messages with forged ones among them; options are those of `Author`."""
        return self._forging(Author(device, self.chance, self.mixture, **{"since": self._since, **options}))

    def _forging(self, author: Author) -> Iterator[Message]:
        victim = next(other for other in reversed(self.devices) if other != author.device)
        return messages(author, self.chance, victim)

    def send(
        self,
        device: Device,
        supply: Iterator[Message] | None = None,
        *,
        numbered: bool = False,
        direct: bool = False,
        **options: Any,
    ) -> Sender:
        """Have a device send, to the end of the case unless its supply ends.

        Args:
            device: its credentials.
            supply: what it sends instead of the usual.
            numbered: whether it numbers the usual messages, and waits for receipts.
            direct: past the proxy, if there is one.
            options: those of `Sender`.
        """
        port = self.door if direct else self.entrance
        if self.mode is Mode.EXTERNAL:
            options = {"pause": _PAUSE_OUTSIDE, **options}
        sender: Sender
        if numbered:
            stream = f"stream-of-{device.id}"
            author = Author(device, self.chance, self.mixture, since=self._since, stream=stream)
            sender = NumberedSender(author, self._forging(author), self.record, port, **options)
        else:
            is_proof = self.mode is Mode.EMBEDDED
            supply = supply or self.supply(device)
            sender = Sender(device, supply, self.record, port, is_proof=is_proof, **options)
        self.senders[sender] = self.spawn(sender.run())
        return sender

    def send_all(self, **options: Any) -> None:
        """Have every device send: with a broker outside all but the first by numbers, else only the last.

        Where the broker forgets, all number their messages.
        """
        first, *others, last = self.devices
        self.send(first, numbered=self.setting.broker_forgets, **options)
        for device in others:
            self.send(device, numbered=self.mode is Mode.EXTERNAL, **options)
        self.send(last, numbered=True, **options)

    async def silence(self) -> list[Message]:
        """Have nobody send any more; what was sent and not acknowledged."""
        for task in self.senders.values():
            task.cancel()
        await asyncio.gather(*self.senders.values(), return_exceptions=True)
        unfinished = [message for sender in self.senders for message in sender.unfinished]
        self.senders.clear()
        return unfinished

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside the case; it ends with it."""
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    async def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- faults --------------------------------------------------------------------------------------

    async def a_while(self, most: int = 1000) -> None:
        """Wait for a moment that the seed chooses: so many acknowledgements at most, and a bit."""
        most = max(2, round(most * self.share))
        async with within(LIMIT, "too few messages were acknowledged"):
            await self.record.grow(self.chance.randrange(1, most))
        await asyncio.sleep(self.chance.uniform(0, 0.01))

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def recovered(self, since: float) -> None:
        """Wait until messages are acknowledged again.

        Raises:
            Broken: they aren't.
        """
        async with within(LIMIT, "nothing was acknowledged after the fault"):
            await self.record.prove()
        self.outcome.recoveries.append(self.now() - since)

    @asynccontextmanager
    async def unstarved(self, by: int = 3) -> AsyncIterator[None]:
        """Around what one agent does: in the meantime the bystander must get so many acknowledgements."""
        before = self.bystander.answered
        yield
        grown = self.bystander.answered - before
        if grown < by:
            raise Broken(f"the bystander was starved: {grown} acknowledgements in the meantime")

    async def health(self, wanted: str, *, or_torn_log: bool = False) -> Any:
        """Wait until /health says so; all that it says.

        `or_torn_log` takes a log that was set aside for good too: a death in mid-write leaves one, and the
        server can't know that nothing in the torn transaction was acknowledged.

        Raises:
            Broken: it never does.
        """
        said: Any = None
        try:
            async with asyncio.timeout(LIMIT):
                while (said := await self.server.health())["status"] != wanted:
                    if or_torn_log and _is_about_torn_log(said):
                        break
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Broken(f"/health is not {wanted}: {said}") from None
        return said

    # --- the end -------------------------------------------------------------------------------------

    async def conclude(self) -> None:
        """Let everything come to its end without a fault, stop the server, and count.

        Raises:
            Broken: an invariant doesn't hold; what was counted is in the outcome all the same.
        """
        for sender in self.senders:
            sender.finish()
        await self.exhausted(self.senders)
        self._giving.cancel()
        await asyncio.wait([self._giving])
        await self._orders.settle()
        await self._orders.check()
        await self.health("healthy", or_torn_log=self.server.has_crashed)
        await self.obedient.close()
        await self.server.stop()
        self._count()

    async def exhausted(self, senders: Collection[Sender]) -> None:
        """Wait until these senders have come to the end of their supplies, and all is acknowledged.

        Raises:
            Broken: it never is.
        """
        try:
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*(self.senders[sender] for sender in senders))
        except TimeoutError:
            left = [sender.device.id for sender in senders if not sender.is_done]
            told = f"{len(left)} of {len(senders)} senders wait, one of them {left[0]}"
            raise Broken(f"not everything was acknowledged in the end: {told}") from None

    def _count(self) -> None:
        found = count(self.record, read_rows(self.server.duckdb), {OBEDIENT})
        outcome = self.outcome
        outcome.messages, outcome.refused = self.record.messages, self.record.refused
        outcome.lost, outcome.doubled, outcome.forged = len(found.lost), len(found.doubled), len(found.forged)
        outcome.peak_rss = self.server.peak_rss
        for what in ("lost", "doubled", "forged"):
            rows = getattr(found, what)
            if rows:
                outcome.problems.append(f"{what}: {len(rows)} rows, for one {next(iter(rows))}")
        if outcome.peak_rss > self.setting.rss_limit:
            outcome.problems.append(
                f"{outcome.peak_rss:.0f} MB, {self.setting.rss_limit:.0f} were to be enough"
            )


def _is_about_torn_log(health: Any) -> bool:
    """Whether a log that was set aside is all that is wrong."""
    wrong = {name: part for name, part in health["components"].items() if part["status"] != "healthy"}
    return wrong.keys() == {"duckdb"} and "damaged" in wrong["duckdb"]["detail"]
