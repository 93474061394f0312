"""The connection to the broker: one session after the other, each with a birth and a signed will."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TypeVar

import aiomqtt
from aiomqtt.exceptions import MqttConnectError

from pingup import __version__
from pingup.agent import messages
from pingup.agent.identity import Identity
from pingup.agent.settings import AgentSettings
from pingup.backoff import full_jitter
from pingup.clock import Clock
from pingup.errors import Unavailable, Unusable
from pingup.sources import USAGE
from pingup.topics import SYS_STATUS, Kind, down_all, down_commands, down_config, down_receipts, up

NOT_ALLOWED = 4
KEEPALIVE = 30
CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 30.0
FAREWELL_TIMEOUT = 3.0
MAX_RECEIVED = 256
# More than the spool and the reports ever have on the way, so that none waits in the client for another.
MAX_IN_FLIGHT = 128
# CONNACK 4 and 5 of MQTT 3.1.1, as the reason codes of MQTT 5 that the client makes of them.
_REFUSALS = (134, 135)
# Small packets go out at once: a report would wait some 40 ms for the acknowledgement of the one before.
_SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Receiver(Protocol):
    """Who takes what comes down. The session waits for it, so it hands on what takes long."""

    async def born(self) -> None:
        """A session has begun."""
        ...

    async def command(self, payload: bytes) -> None: ...

    async def config(self, payload: bytes) -> None: ...

    def receipt(self, payload: bytes) -> None: ...

    def server_status(self, payload: bytes) -> None: ...


class Link:
    """An agent's connection: `run` keeps it up; while it is down, nothing is published."""

    def __init__(
        self, settings: AgentSettings, identity: Identity, clock: Clock, interval: Callable[[], float]
    ) -> None:
        """`interval` tells the seconds between samples, for the birth.

        Raises:
            Unusable: the file of certificates can't be used.
        """
        self._broker = settings.broker
        self._tls = _tls_context(settings) if settings.is_tls else None
        self._reconnect = settings.reconnect
        self._identity = identity
        self._clock = clock
        self._interval = interval
        self._client: aiomqtt.Client | None = None
        self._session = ""
        self._was_in = False
        self._unanswered: set[asyncio.Timeout] = set()
        self._over = asyncio.Event()
        self._over.set()
        self.connected = asyncio.Event()

    # --- sessions ------------------------------------------------------------------------------------

    async def run(self, receiver: Receiver) -> None:
        """Keep a session up until cancelled; then say that the agent is gone.

        Raises:
            Unusable: the broker does not let this agent in, and never has (exit code 4).
        """
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            started = loop.time()
            end = await self._attempt(receiver)
            # A session that held for long is no sign of trouble; a short one is, though it was let in.
            attempt = 0 if loop.time() - started > self._reconnect.limit else attempt + 1
            delay = full_jitter(self._reconnect.first, self._reconnect.limit, attempt)
            _log.warning("%s; next attempt in %.1f s", end, delay)
            await asyncio.sleep(delay)

    async def _attempt(self, receiver: Receiver) -> str:
        """One session from its first to its last moment; why it ended."""
        try:
            async with self.session():
                await receiver.born()
                await self._receive(receiver)
        except Unavailable as problem:
            return str(problem)
        except Unusable as problem:
            if not self._was_in:
                raise
            return str(problem)
        return "the connection was closed"

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Connect, subscribe and give birth; in the end say goodbye.

        Raises:
            Unavailable: the broker can't be reached, or the connection has broken.
            Unusable: the broker does not let this agent in (exit code 4).
        """
        self._session = secrets.token_hex(8)
        try:
            async with _connected(self._new_client()) as client:
                try:
                    await self._begin_session(client)
                    yield
                finally:
                    self._end_session()
                    await self._say_goodbye(client)
        except MqttConnectError as problem:
            if getattr(problem.rc, "value", problem.rc) in _REFUSALS:
                raise Unusable(
                    f"the broker does not let {self._identity.agent_id!r} in: wrong id or secret", NOT_ALLOWED
                ) from problem
            raise Unavailable(f"the broker refuses the connection: {problem}") from problem
        except aiomqtt.MqttError as problem:
            raise Unavailable(
                f"no connection to {self._broker.host}:{self._broker.port}: {problem}"
            ) from problem

    def _new_client(self) -> aiomqtt.Client:
        agent_id = self._identity.agent_id
        client = aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            identifier=agent_id,
            username=agent_id,
            password=self._identity.token,
            will=aiomqtt.Will(up(agent_id, Kind.STATUS), self._farewell(), qos=1, retain=True),
            clean_session=True,
            keepalive=KEEPALIVE,
            timeout=CONNECT_TIMEOUT,
            max_queued_incoming_messages=MAX_RECEIVED,
            max_inflight_messages=MAX_IN_FLIGHT,
            tls_context=self._tls,
            socket_options=_SOCKET_OPTIONS,
        )
        client.pending_calls_threshold = MAX_IN_FLIGHT
        return client

    async def _begin_session(self, client: aiomqtt.Client) -> None:
        agent_id = self._identity.agent_id
        commands, *_ = await _heeding(client.subscribe([(down_all(agent_id), 1), (SYS_STATUS, 1)]))
        if not isinstance(commands, int) and commands.is_failure:
            _log.error("the broker refuses the subscription to %s: no commands", down_all(agent_id))
        await _heeding(client.publish(up(agent_id, Kind.STATUS), self._birth(), qos=1, retain=True))
        self._client = client
        self._over = asyncio.Event()
        self._was_in = True
        self.connected.set()
        _log.info("connected to %s:%d as %s", self._broker.host, self._broker.port, agent_id)

    def _end_session(self) -> None:
        """Let go of those who wait for an answer in this session: there will be none."""
        self.connected.clear()
        self._over.set()
        self._client = None
        now = asyncio.get_running_loop().time()
        for limit in self._unanswered:
            if not limit.expired():
                limit.reschedule(now)

    async def _say_goodbye(self, client: aiomqtt.Client) -> None:
        """Say that the agent is gone, since a clean end makes the broker forget the will."""
        topic = up(self._identity.agent_id, Kind.STATUS)
        # If the connection is what has ended, the broker publishes the will instead.
        with suppress(aiomqtt.MqttError):
            await client.publish(topic, self._farewell(), qos=1, retain=True, timeout=FAREWELL_TIMEOUT)

    async def _receive(self, receiver: Receiver) -> None:
        assert self._client is not None  # noqa: S101 - only called within a session
        agent_id = self._identity.agent_id
        async for message in self._client.messages:
            topic = message.topic.value
            if topic == down_commands(agent_id) and message.retain:
                _log.warning("ignored a retained command: commands are never retained")
            elif topic == down_commands(agent_id):
                await receiver.command(message.payload)
            elif topic == down_config(agent_id) and message.payload:
                await receiver.config(message.payload)
            elif topic == down_receipts(agent_id):
                receiver.receipt(message.payload)
            elif topic == SYS_STATUS:
                receiver.server_status(message.payload)

    # --- what goes up --------------------------------------------------------------------------------

    async def deliver(self, kind: Kind, message: bytes) -> bool:
        """Publish a signed message, with all the time that the broker wants.

        Returns: True once it is acknowledged, False once the session is over and it is not.
        """
        over = self._over
        is_acknowledged = await self.publish(kind, message, timeout=None)
        if not is_acknowledged:
            await over.wait()
        return is_acknowledged

    async def publish(self, kind: Kind, message: bytes, *, timeout: float | None = ANSWER_TIMEOUT) -> bool:
        """Publish a signed message; whether the broker has acknowledged it within so many seconds."""
        if self._client is None:
            return False
        topic = up(self._identity.agent_id, kind)
        try:
            async with asyncio.timeout(timeout) as limit:
                self._unanswered.add(limit)
                try:
                    is_retained = kind is Kind.STATUS
                    await _heeding(self._client.publish(topic, message, 1, is_retained, timeout=math.inf))
                finally:
                    self._unanswered.discard(limit)
        except (TimeoutError, aiomqtt.MqttError) as problem:
            _log.info("a message to %s was not acknowledged: %s", topic, problem)
            return False
        return True

    async def announce(self) -> None:
        """Say again how often the agent reports, when that has changed within a session."""
        await self.publish(Kind.STATUS, self._birth())

    def _birth(self) -> bytes:
        agent_id, now = self._identity.agent_id, self._clock.now()
        return self._identity.sign(
            messages.birth(agent_id, now, self._session, __version__, self._interval())
        )

    def _farewell(self) -> bytes:
        agent_id, now = self._identity.agent_id, self._clock.now()
        return self._identity.sign(messages.farewell(agent_id, now, self._session))


@asynccontextmanager
async def _connected(client: aiomqtt.Client) -> AsyncIterator[aiomqtt.Client]:
    """The client, connected. Closing it never fails: what is not closed by us is by the broker."""
    opening = asyncio.ensure_future(client.__aenter__())
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        # It connects in a thread that can't be stopped; its socket can only be closed once that is done.
        with suppress(aiomqtt.MqttError):
            await opening
            await client.__aexit__(None, None, None)
        raise
    try:
        yield client
    finally:
        with suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


async def _heeding(call: Awaitable[T]) -> T:
    """Await a call of aiomqtt, and end when cancelled even if the answer comes at the same moment.

    It waits by `asyncio.wait_for`, which swallows such a cancellation before Python 3.12 (gh-86296).
    """
    answer = await call
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    return answer


def _tls_context(settings: AgentSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as problem:
        raise Unusable(f"cannot use the certificates in {settings.ca_file}: {problem}", USAGE) from problem
