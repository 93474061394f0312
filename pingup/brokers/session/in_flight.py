"""Our own packets that the broker has to answer, by their ids."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import mqtt5

from pingup.errors import Unavailable

T = TypeVar("T")
Answer = asyncio.Future[T]

_IDS = 65_535  # from 1 on


class InFlight:
    """Gives out packet ids, and no more PUBLISH at a time than the broker takes (its Receive Maximum).

    An answer that its asker no longer waits for (a cancelled future) keeps its id until it comes, since until
    then the broker may still use it.
    """

    def __init__(self) -> None:
        self._window = _IDS - 1
        self._publishes: dict[int, Answer[mqtt5.PubAckPacket]] = {}
        self._subscribes: dict[int, Answer[mqtt5.SubAckPacket]] = {}
        self._last_id = 0
        self._problem: str | None = None
        self._room = asyncio.Event()
        self._room.set()

    def allow(self, window: int) -> None:
        """Take the broker's Receive Maximum; one id stays free for a SUBSCRIBE."""
        self._window = min(window, _IDS - 1)

    async def publish(self) -> tuple[int, Answer[mqtt5.PubAckPacket]]:
        """A packet id, as soon as the broker takes one more PUBLISH, and the future of the answer.

        Raises:
            Unavailable: the connection has ended.
        """
        while not self._room.is_set():
            await self._room.wait()
        return self._ask(self._publishes)

    def try_publish(self) -> tuple[int, Answer[mqtt5.PubAckPacket]] | None:
        """The same at once, None while half of the window or more is in use: the rest is for who waits."""
        if self._problem is not None or len(self._publishes) >= self._window // 2:
            return None
        return self._ask(self._publishes)

    def subscribe(self) -> tuple[int, Answer[mqtt5.SubAckPacket]]:
        """A packet id, and the future of the answer.

        Raises:
            Unavailable: the connection has ended.
        """
        return self._ask(self._subscribes)

    def published(self, packet: mqtt5.PubAckPacket) -> bool:
        """Pass on an answer; False when nothing was asked with its id."""
        return self._settle(self._publishes, packet.packet_id, packet)

    def subscribed(self, packet: mqtt5.SubAckPacket) -> bool:
        """Pass on an answer; False when nothing was asked with its id."""
        return self._settle(self._subscribes, packet.packet_id, packet)

    def fail(self, problem: str) -> None:
        """No answers will come any more; `problem` says why."""
        self._problem = problem
        answers: list[asyncio.Future[Any]] = [*self._publishes.values(), *self._subscribes.values()]
        for answer in answers:
            if not answer.done():
                answer.set_exception(Unavailable(problem))
        self._room.set()

    def _ask(self, asked: dict[int, Answer[T]]) -> tuple[int, Answer[T]]:
        if self._problem is not None:
            raise Unavailable(self._problem)
        number = self._last_id % _IDS + 1
        while number in self._publishes or number in self._subscribes:
            number = number % _IDS + 1
        self._last_id = number
        answer: Answer[T] = asyncio.get_running_loop().create_future()
        asked[number] = answer
        self._update_room()
        return number, answer

    def _settle(self, asked: dict[int, Answer[T]], number: int, packet: T) -> bool:
        answer = asked.pop(number, None)
        if answer is None:
            return False
        self._update_room()
        if not answer.done():
            answer.set_result(packet)
        return True

    def _update_room(self) -> None:
        if len(self._publishes) < self._window:
            self._room.set()
        else:
            self._room.clear()
