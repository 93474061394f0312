"""A session with a broker that is kept up: connect, subscribe, and again whenever the connection ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pingup.backoff import full_jitter
from pingup.brokers.session.connection import Connection, OnMessages
from pingup.brokers.session.dialling import dial
from pingup.brokers.session.options import Options, Subscription
from pingup.errors import Unavailable

log = logging.getLogger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds before an attempt, with full jitter
_STABLE = 60.0  # seconds after which a connection counts as a good one


class Client:
    """Connects and connects again, subscribing each time, since a broker may have forgotten the session."""

    def __init__(
        self,
        options: Callable[[], Options],
        subscriptions: tuple[Subscription, ...],
        *,
        on_messages: OnMessages,
        on_connected: Callable[[Connection], None],
        may_connect: Callable[[], Awaitable[None]],
    ) -> None:
        """
        Args:
            options: asked for at each attempt, since a will may tell the time.
            subscriptions: what is subscribed at every connect.
            on_messages: see `Connection`.
            on_connected: called after the subscriptions are granted.
            may_connect: waited for before each attempt.
        """
        self.connection: Connection | None = None
        """The connection that works now: accepted and subscribed."""
        self.problem: str | None = "not connected yet"
        """Why there is none, in plain words."""
        self._options = options
        self._subscriptions = subscriptions
        self._on_messages = on_messages
        self._on_connected = on_connected
        self._may_connect = may_connect
        self.latest: Connection | None = None
        self._attempt = 0
        self._noted: str | None = None
        self._is_leaving = False

    async def run(self) -> None:
        """Keep a connection up, until `leave`, or until cancelled; the connection is cut then."""
        loop = asyncio.get_running_loop()
        while not self._is_leaving:
            await self._may_connect()
            begun = loop.time()
            try:
                await self._connect()
            except Unavailable as problem:
                self._note(str(problem))
            if loop.time() - begun >= _STABLE:
                self._attempt = 0
            await asyncio.sleep(full_jitter(_FIRST_WAIT, _LONGEST_WAIT, self._attempt))
            self._attempt += 1

    def pause_reading(self) -> None:
        """Take nothing more for now."""
        if self.latest is not None:
            self.latest.pause_reading()

    def resume_reading(self) -> None:
        """Go on, with what had come already, unless we are about to leave."""
        if self.latest is not None and not self._is_leaving:
            self.latest.resume_reading()

    def end(self, why: str) -> None:
        """End the connection that there is; the next attempt waits for `may_connect`."""
        if self.latest is not None:
            self.latest.end(why)

    async def leave(self, farewell: Callable[[Connection], None], within: float) -> None:
        """End for good: read nothing more, acknowledge what was taken, say farewell, and disconnect.

        The session is kept. What has no verdict within so many seconds is not acknowledged, and comes again.
        """
        self._is_leaving = True
        connection = self.connection
        if connection is None:
            return
        connection.pause_reading()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await connection.acknowledged()
        farewell(connection)
        await connection.disconnect()

    async def _connect(self) -> None:
        """One connection from its beginning to its end, which is always an error."""
        connection = Connection(self._options(), self._on_messages)
        self.latest = connection
        try:
            await dial(connection)
            await connection.subscribe(*self._subscriptions)
            self.connection, self.problem, self._noted = connection, None, None
            log.info("connected to the broker at %s", connection.options.address)
            self._on_connected(connection)
            await connection.until_lost()
        finally:
            self.connection = self.latest = None
            connection.abort()
            if connection.dropped:
                log.warning("%d QoS 0 messages were dropped: the broker was too slow", connection.dropped)

    def _note(self, problem: str) -> None:
        """Say what is wrong; once, however many attempts fail in the same way."""
        if problem != self._noted and not self._is_leaving:
            log.warning("no connection to the broker: %s", problem)
        self.problem = self._noted = problem
