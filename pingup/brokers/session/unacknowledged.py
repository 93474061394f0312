"""What a connection has received with QoS 1 and not yet acknowledged, in the order of receipt."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from pingup.errors import Rejected

Verdict = asyncio.Future[Any]

_PUBACK = struct.Struct(">BBH")


class _Waiting(NamedTuple):
    packet_id: int
    size: int
    verdict: Verdict | None


class Unacknowledged:
    """Acknowledges each message after its verdict, never one before an earlier one, together what is ready.

    A verdict that is a result or `Rejected` is acknowledged. Any other ends it all: MQTT has no way to give a
    message back (a PUBACK with an error code discards it), only a new connection brings it again.

    Only the oldest verdict is watched. They come in the order of receipt, a batch at a time, so a callback
    for each would be most of the work.
    """

    def __init__(self, *, write: Callable[[bytes], None], failed: Callable[[BaseException], None]) -> None:
        self._write = write
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._is_watching = False
        self.bytes = 0
        self.settled = asyncio.Event()
        self.settled.set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, packet_id: int, size: int, verdict: Verdict | None) -> None:
        """Acknowledge a message with a payload of `size` bytes after its verdict; None needs none."""
        self._waiting.append(_Waiting(packet_id, size, verdict))
        self.bytes += size
        if not self._is_watching:
            self._is_watching = True
            self.settled.clear()
            self._watch(verdict)

    def drop(self) -> None:
        """Acknowledge nothing any more: the connection that delivered is gone."""
        self._waiting.clear()
        self.bytes = 0
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
            packet_id, size, verdict = self._waiting[0]
            if verdict is not None and not verdict.done():
                break
            problem = _problem(verdict)
            if problem is None:
                self._waiting.popleft()
                self.bytes -= size
                answers.append(_PUBACK.pack(0x40, 2, packet_id))
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
