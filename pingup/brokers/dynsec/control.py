"""The way to the dynamic security plugin: an administrator's connection, open while there is work."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence

import msgspec

from pingup.brokers.dynsec.wire import ANSWERS, REQUESTS, Answer, AnyResponse, Command, Request, Response
from pingup.brokers.session import Connection, Message, Options, Subscription, at_once
from pingup.brokers.session.dialling import dial
from pingup.errors import NotAllowed, Unavailable

ANSWER_WITHIN = 30.0  # seconds; the plugin writes its whole file for each command that changes something

# Bad user name or password, not authorised, banned (MQTT 5, section 3.2.2.2).
_NOT_US = frozenset({0x86, 0x87, 0x8A})

COMMANDS_AT_ONCE = 10
"""Even, for those that come in pairs. The broker does nothing else while it carries out a request: with 2,000
agents about 25 ms a command."""


class Control:
    """Asks the plugin, one request at a time."""

    def __init__(self, options: Options, *, answer_within: float = ANSWER_WITHIN) -> None:
        self.options = options
        self._answer_within = answer_within
        self._connection: Connection | None = None
        self._one_at_a_time = asyncio.Lock()
        self._mark = ""
        self._response: asyncio.Future[tuple[Answer, ...]] | None = None

    async def ask(self, commands: Sequence[Command]) -> list[Answer]:
        """Have commands carried out, in their order; an answer to each.

        Raises:
            NotAllowed: the broker doesn't know us, or we are no administrator there.
            Unavailable: it can't be reached, doesn't answer, or has no such plugin; some may be carried out.
        """
        answers: list[Answer] = []
        async with self._one_at_a_time:
            for part in _parts(commands):
                answers += await self._ask(part)
        return answers

    async def close(self) -> None:
        """Say goodbye; the next `ask` connects again."""
        async with self._one_at_a_time:
            if self._connection is not None:
                await self._connection.disconnect()
                self._connection = None

    async def _ask(self, commands: Sequence[Command]) -> tuple[Answer, ...]:
        connection = await self._connected()
        self._mark = secrets.token_hex(8)
        marked = tuple(msgspec.structs.replace(command, mark=self._mark) for command in commands)
        self._response = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._answer_within):
                await connection.publish(REQUESTS, msgspec.json.encode(Request(marked)))
                answers = await connection.until(self._response)
        except TimeoutError as problem:
            connection.abort()
            raise Unavailable(
                f"the broker at {self.options.address} does not answer on {REQUESTS}: "
                "has it the dynamic security plugin?"
            ) from problem
        except Unavailable as problem:
            raise self._lost(connection, problem) from problem
        if len(answers) != len(commands):
            raise Unavailable(f"the broker answered {len(answers)} of {len(commands)} commands")
        return answers

    async def _connected(self) -> Connection:
        if self._connection is None or not self._connection.is_open:
            connection = Connection(self.options, self._take)
            try:
                await dial(connection)
                await connection.subscribe(Subscription(ANSWERS))
            except Unavailable as problem:
                raise self._lost(connection, problem) from problem
            self._connection = connection
        return self._connection

    def _lost(self, connection: Connection, problem: Unavailable) -> Unavailable:
        """Why something failed: while the connection is still open, the broker has refused it."""
        was_refused = connection.refused_with in _NOT_US or connection.is_open
        connection.abort()
        self._connection = None
        return NotAllowed(str(problem)) if was_refused else problem

    def _take(self, messages: list[Message]) -> Sequence[None]:
        for message in messages:
            self._hear(message)
        return at_once(messages)

    def _hear(self, message: Message) -> None:
        """What the plugin says, to us or to another administrator."""
        if message.topic != ANSWERS or self._response is None or self._response.done():
            return
        try:
            marked = msgspec.json.decode(message.payload, type=AnyResponse).responses
            if any(answer.mark == self._mark for answer in marked):
                self._response.set_result(msgspec.json.decode(message.payload, type=Response).responses)
        except msgspec.MsgspecError as problem:
            self._response.set_exception(Unavailable(f"the broker's answer makes no sense: {problem}"))


def _parts(commands: Sequence[Command]) -> Iterator[Sequence[Command]]:
    for start in range(0, len(commands), COMMANDS_AT_ONCE):
        yield commands[start : start + COMMANDS_AT_ONCE]
