"""What a connection has received with QoS 1 and not yet acknowledged, in the order of receipt."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pingup.brokers.session.packets import Message
from pingup.errors import Rejected

Verdict = asyncio.Future[Any]

_PUBACK = b"\x40\x02"


class _Group:
    """Messages in a row that wait for the same verdict, or behind it for none."""

    __slots__ = ("packet_ids", "size", "verdict")

    def __init__(self, verdict: Verdict | None) -> None:
        self.verdict = verdict
        self.packet_ids: list[bytes] = []
        self.size = 0

    def answers(self) -> bytes:
        return _PUBACK + _PUBACK.join(self.packet_ids)


class Unacknowledged:
    """Acknowledges each message after its verdict, never one before an earlier one, together what is ready.

    A verdict that is a result or `Rejected` is acknowledged. Any other ends it all: MQTT has no way to give a
    message back (a PUBACK with an error code discards it), only a new connection brings it again.

    Only the oldest verdict is watched: they come in the order of receipt, and many messages share one.
    """

    def __init__(self, *, write: Callable[[bytes], None], failed: Callable[[BaseException], None]) -> None:
        self._write = write
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Group] = deque()
        self._count = 0
        self._is_watching = False
        self.bytes = 0
        self.settled = asyncio.Event()
        self.settled.set()

    def __len__(self) -> int:
        return self._count

    def add(self, messages: Sequence[Message], verdicts: Sequence[Verdict | None]) -> None:
        """Acknowledge those of the messages that have QoS 1, each after its verdict; None needs none."""
        last = self._waiting[-1] if self._waiting else None
        for message, verdict in zip(messages, verdicts, strict=True):
            if not message.packet_id:
                continue
            if last is None or (verdict is not None and verdict is not last.verdict):
                last = _Group(verdict)
                self._waiting.append(last)
            last.packet_ids.append(message.packet_id)
            size = len(message.payload)
            last.size += size
            self.bytes += size
            self._count += 1
        if self._waiting and not self._is_watching:
            self._is_watching = True
            self.settled.clear()
            self._watch(self._waiting[0].verdict)

    def drop(self) -> None:
        """Acknowledge nothing any more: the connection that delivered is gone."""
        self._waiting.clear()
        self.bytes = self._count = 0
        self.settled.set()

    def _watch(self, verdict: Verdict | None) -> None:
        if verdict is None:
            self._loop.call_soon(self._settle)
        else:
            verdict.add_done_callback(self._settle)

    def _settle(self, _: Verdict | None = None) -> None:
        answers: list[bytes] = []
        problem: BaseException | None = None
        while self._waiting and problem is None:
            group = self._waiting[0]
            if group.verdict is not None and not group.verdict.done():
                break
            problem = _problem(group.verdict)
            if problem is None:
                self._waiting.popleft()
                self.bytes -= group.size
                self._count -= len(group.packet_ids)
                answers.append(group.answers())
        if answers:
            self._write(b"".join(answers))
        if problem is not None:
            self.drop()
            self._failed(problem)
        elif self._waiting:
            self._watch(self._waiting[0].verdict)
            return
        self._is_watching = False
        self.settled.set()


def _problem(verdict: Verdict | None) -> BaseException | None:
    """Why a message must not be acknowledged."""
    if verdict is None:
        return None
    if verdict.cancelled():
        return asyncio.CancelledError()
    problem = verdict.exception()
    return None if isinstance(problem, Rejected) else problem
