"""What was measured and is not yet with the broker: bounded, and the oldest goes first."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import msgspec

from pingup.topics import Kind

MAX_MESSAGES = 1_000
MAX_BYTES = 8 * 1024 * 1024
_log = logging.getLogger(__name__)


class Unsent(msgspec.Struct, frozen=True, eq=False):
    """A signed message that waits."""

    kind: Kind
    message: bytes


class Outbox:
    """A queue in memory of at most `max_messages` messages and `max_bytes` bytes."""

    def __init__(self, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: deque[Unsent] = deque()
        self._bytes = 0
        self._dropped = 0
        self._filled = asyncio.Event()

    def put(self, kind: Kind, message: bytes) -> None:
        """Queue a message; when that makes it too much, the oldest ones are dropped."""
        self._waiting.append(Unsent(kind, message))
        self._bytes += len(message)
        while len(self._waiting) > self._max_messages or self._bytes > self._max_bytes:
            self._remove_oldest()
            if not self._dropped:
                _log.warning("%d unsent messages: from now on the oldest are dropped", len(self._waiting))
            self._dropped += 1
        self._filled.set()

    async def oldest(self) -> Unsent:
        """Wait for a message; it stays queued until `sent`."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return self._waiting[0]

    def sent(self, unsent: Unsent) -> None:
        """Take a message out, unless it was dropped while it was being sent."""
        if self._waiting and self._waiting[0] is unsent:
            self._remove_oldest()
        if self._dropped:
            _log.warning("%d messages were dropped while the broker could not be reached", self._dropped)
            self._dropped = 0

    def _remove_oldest(self) -> None:
        self._bytes -= len(self._waiting.popleft().message)
