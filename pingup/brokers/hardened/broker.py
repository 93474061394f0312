"""amqtt's broker: listener, connections and sessions."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import cast

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig

from pingup.access import is_same_client
from pingup.brokers.exchange import Exchange
from pingup.brokers.framing import Violation
from pingup.brokers.greeting import (
    UNAVAILABLE,
    Greeting,
    Keyring,
    Login,
    Refusal,
    connack,
    log_in,
    read_greeting,
)
from pingup.brokers.hardened.handler import HardenedHandler
from pingup.brokers.hardened.session import HardenedSession
from pingup.brokers.limits import Limits
from pingup.brokers.subscriber import Subscriber
from pingup.brokers.uplink import Uplink
from pingup.brokers.wire import Wire
from pingup.clock import Clock

log = logging.getLogger(__name__)

LISTENER = "default"
_BACKLOG = 1024  # connections that wait to be accepted, when a whole fleet comes back


class HardenedBroker(Broker):
    """Accepts connections, finds out who they are, and gives them their sessions."""

    def __init__(
        self, *, exchange: Exchange, uplink: Uplink, keyring: Keyring, clock: Clock, limits: Limits
    ) -> None:
        # amqtt's defaults are anonymous access on all interfaces. Where we listen is settled in `open`.
        super().__init__(
            BrokerConfig(
                listeners={LISTENER: ListenerConfig(bind="127.0.0.1:0")},
                session_expiry_interval=limits.session_expiry,
                plugins={},
            )
        )
        self.exchange = exchange
        self.uplink = uplink
        self.clock = clock
        self.limits = limits
        self.closing = asyncio.Event()
        self._keyring = keyring
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers: set[Wire] = set()
        self._is_accepting = True

    # --- life --------------------------------------------------------------------------------------

    async def open(self, host: str, port: int) -> int:
        """Listen; the port in effect. Raises OSError when that is impossible."""
        self._listener = await asyncio.start_server(
            self._accept, host, port, backlog=_BACKLOG, start_serving=False
        )
        await self.start()
        return int(self._listener.sockets[0].getsockname()[1])

    async def _create_server_instance(self, *_: object) -> asyncio.Server:
        """amqtt: logs a traceback for a port in use, and keeps to itself which free port it got."""
        await self._listener.start_serving()
        return self._listener

    async def _broadcast_loop(self) -> None:
        """amqtt: an unbounded queue, and for each message a walk through the filters of everybody."""

    @property
    def is_listening(self) -> bool:
        return self._is_accepting and self._listener.is_serving()

    def stop_reading(self) -> None:
        """Accept nobody and read nothing any more."""
        self._is_accepting = False
        self._listener.close()
        for wire in self._strangers:
            wire.abort()
        for _, handler in self._entries():
            handler.stop_reading()

    async def shutdown(self) -> None:
        """amqtt: cancels what was offered and is not stored yet."""
        self.stop_reading()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limits.close_within):
                for _, handler in self._entries():
                    await handler.settle()
        self.closing.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.limits.close_within)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await super().shutdown()

    # --- connections -------------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._is_accepting or len(self._tasks) >= self.limits.connections:
            writer.transport.abort()
            return
        task = asyncio.create_task(self.stream_connected(reader, writer, LISTENER))
        self._tasks.add(task)
        task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection failed", exc_info=task.exception())

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """amqtt: waits for ever for a CONNECT, takes the session that it names, and only then asks who it is;
        an error in there leaves the client hanging."""
        wire = Wire(reader, writer, self.limits)
        try:
            handler = await self._welcome(wire)
            if handler is not None:
                await handler.start()
        finally:
            await wire.hang_up()

    async def _welcome(self, wire: Wire) -> HardenedHandler | None:
        self._strangers.add(wire)
        # An error of ours in here must not leave the client waiting, and never lets it in.
        answer = UNAVAILABLE
        try:
            async with asyncio.timeout(self.limits.connect_within):
                greeting = await read_greeting(await wire.frames.first())
            login = await self._log_in(greeting)
            answer = b""
        except Refusal as refusal:
            answer = connack(refusal.return_code)
        except (Violation, OSError):
            answer = b""
        else:
            return self._begin(wire, greeting, login) if self._is_accepting else None
        finally:
            self._strangers.discard(wire)
            wire.write(answer)
        return None

    async def _log_in(self, greeting: Greeting) -> Login:
        """Who greets, once the connection that has this client id has been ended (MQTT 3.1.1, 3.1.4-2)."""
        while True:
            login = log_in(greeting, self._keyring)
            _, other = self._entry(login.client_id)
            if other is None or other.parted.is_set():
                return login
            other.end()
            await other.parted.wait()

    def _begin(self, wire: Wire, greeting: Greeting, login: Login) -> HardenedHandler:
        """amqtt: gives the session to whoever comes with its client id, and to clean ones with its queue."""
        session, _ = self._entry(login.client_id)
        is_kept = (
            session is not None
            and not greeting.clean_session
            and is_same_client(session.subscriber.principal, login.principal)
        )
        if session is None or not is_kept:
            self.forget(login.client_id)
            self._make_room()
            clean = greeting.clean_session
            session = HardenedSession(login, clean=clean, limits=self.limits, clock=self.clock)
        session.subscriber.principal = login.principal
        session.keep_alive = greeting.keep_alive
        session.transitions.connect()
        wire.write(connack(0, session_present=is_kept))
        handler = HardenedHandler(self, session, greeting.will, wire)
        self._sessions[login.client_id] = (session, handler)
        return handler

    # --- sessions ----------------------------------------------------------------------------------

    def subscriber_of(self, client_id: str) -> Subscriber | None:
        """What is known of a client, connected or not."""
        session, _ = self._entry(client_id)
        return session.subscriber if session is not None else None

    def leave(self, handler: HardenedHandler) -> None:
        """A connection is over. amqtt: finds out a second later, and keeps the queue of a clean session."""
        session = cast("HardenedSession", handler.session)
        session.subscriber.disconnect()
        _, current = self._entry(session.subscriber.client_id)
        if current is handler:
            session.transitions.disconnect()
            if session.clean_session:
                self.forget(session.subscriber.client_id)

    def end_sessions(self, principal_id: str) -> None:
        """End and forget all sessions of somebody."""
        for session, _ in self._entries():
            if session.subscriber.principal.id == principal_id:
                self.forget(session.subscriber.client_id)

    def forget(self, client_id: str) -> None:
        """End and forget a session, if there is one. Its will is not published."""
        session, handler = self._entry(client_id)
        if session is not None and handler is not None:
            del self._sessions[client_id]
            handler.end(with_will=False)
            self.exchange.forget(session.subscriber)

    async def _cleanup_session(self, client_id: str) -> None:
        """amqtt: walks through all subscriptions of everybody."""
        self.forget(client_id)

    def _make_room(self) -> None:
        """amqtt: keeps any number of sessions."""
        if len(self._sessions) >= self.limits.sessions:
            away = [session for session, handler in self._entries() if handler.parted.is_set()]
            if away:
                oldest = min(away, key=lambda session: session.last_disconnect_time or 0)
                self.forget(oldest.subscriber.client_id)

    def _entry(self, client_id: str) -> tuple[HardenedSession, HardenedHandler] | tuple[None, None]:
        entry = self._sessions.get(client_id, (None, None))
        return cast("tuple[HardenedSession, HardenedHandler] | tuple[None, None]", entry)

    def _entries(self) -> list[tuple[HardenedSession, HardenedHandler]]:
        return cast("list[tuple[HardenedSession, HardenedHandler]]", list(self._sessions.values()))
