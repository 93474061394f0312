"""What a connection has received and not yet acknowledged, in the order of receipt."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from amqtt.session import IncomingApplicationMessage

from pingup.brokers.framing import Publish, puback, pubrec
from pingup.brokers.limits import Limits
from pingup.brokers.uplink import Verdict
from pingup.errors import Rejected


class _Receipt(NamedTuple):
    publish: Publish
    verdict: Verdict | None
    pass_on: bool


class Receipts:
    """Acknowledges each message once its verdict is known, and never one before an earlier one.

    A message is acknowledged when it is committed or refused. One that could not be stored ends the
    connection without an acknowledgement, so that its sender sends it again.
    """

    def __init__(
        self,
        *,
        received: OrderedDict[int, IncomingApplicationMessage],
        limits: Limits,
        write: Callable[[bytes], None],
        committed: Callable[[Publish], None],
        failed: Callable[[], None],
    ) -> None:
        """`received` are the session's QoS 2 messages that have their PUBREC and no PUBREL yet."""
        self._received = received
        self._limits = limits
        self._write = write
        self._committed = committed
        self._failed = failed
        self._waiting: deque[_Receipt] = deque()
        self._waiting_bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_mute = False
        self._judging: set[int] = set()
        self.settled = asyncio.Event()
        self.settled.set()

    @property
    def has_room(self) -> bool:
        """Whether no more is unacknowledged than may be."""
        return self._has_room.is_set()

    async def room(self) -> None:
        """Wait while too much is unacknowledged."""
        await self._has_room.wait()

    def is_repeat(self, publish: Publish) -> bool:
        """Whether this is a QoS 2 message that was received already; it is answered again, if it was."""
        if publish.qos == 2 and publish.packet_id in self._received:
            self._write(pubrec(publish.packet_id))
            return True
        return publish.qos == 2 and publish.packet_id in self._judging

    def add(self, publish: Publish, verdict: Verdict | None, *, pass_on: bool = True) -> None:
        """Acknowledge a message after its verdict; None for one that is dropped.

        `pass_on` says whether anybody is to have it once it is committed. Many messages may share a verdict.
        """
        is_awaited = bool(self._waiting) and self._waiting[-1].verdict is verdict
        self._waiting.append(_Receipt(publish, verdict, pass_on))
        self._waiting_bytes += len(publish.payload)
        if publish.qos == 2:
            self._judging.add(publish.packet_id)
        self.settled.clear()
        self._update_room()
        if verdict is None:
            self._settle()
        elif not is_awaited:
            verdict.add_done_callback(self._settle)

    def release(self, packet_id: int) -> None:
        """The sender of a QoS 2 message has seen its PUBREC."""
        self._received.pop(packet_id, None)

    def mute(self) -> None:
        """Acknowledge nothing any more; what is committed is still passed on."""
        self._is_mute = True

    def _settle(self, _: Verdict | None = None) -> None:
        """Acknowledge what is ready, together."""
        answers = bytearray()
        while self._waiting and _is_known(self._waiting[0].verdict):
            publish, verdict, pass_on = self._waiting.popleft()
            self._waiting_bytes -= len(publish.payload)
            if publish.qos == 2:
                self._judging.discard(publish.packet_id)
            problem = _problem(verdict)
            if pass_on and verdict is not None and problem is None:
                self._committed(publish)
            if problem is not None and not isinstance(problem, Rejected):
                self._is_mute = True
                self._failed()
            if not self._is_mute:
                answers += self._answer(publish)
        if answers:
            self._write(bytes(answers))
        self._update_room()
        if not self._waiting:
            self.settled.set()

    def _answer(self, publish: Publish) -> bytes:
        if publish.qos == 0:
            return b""
        if publish.qos == 1:
            return puback(publish.packet_id)
        self._received[publish.packet_id] = IncomingApplicationMessage(
            publish.packet_id, publish.topic, 2, b"", publish.retain
        )
        if len(self._received) > self._limits.unreleased:
            self._received.popitem(last=False)
        return pubrec(publish.packet_id)

    def _update_room(self) -> None:
        is_full = (
            len(self._waiting) >= self._limits.unacknowledged
            or self._waiting_bytes >= self._limits.unacknowledged_bytes
        )
        if is_full:
            self._has_room.clear()
        else:
            self._has_room.set()


def _is_known(verdict: Verdict | None) -> bool:
    return verdict is None or verdict.done()


def _problem(verdict: Verdict | None) -> BaseException | None:
    if verdict is None:
        return None
    return asyncio.CancelledError() if verdict.cancelled() else verdict.exception()
