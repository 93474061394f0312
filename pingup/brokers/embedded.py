"""The broker in this process: agents and people connect to it, the services speak through it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from pingup.brokers.edge import OFFLINE, ONLINE, Edge
from pingup.brokers.exchange import Exchange, Message
from pingup.brokers.greeting import Keyring
from pingup.brokers.hardened.broker import HardenedBroker
from pingup.brokers.limits import Limits
from pingup.brokers.uplink import Uplink
from pingup.clock import Clock
from pingup.errors import Unusable
from pingup.topics import SYS_STATUS, down_commands

_CHATTY = ("amqtt", "transitions")


class Embedded:
    """An MQTT 3.1.1 broker, and `pingup.ports.Downlink`, which works from the start: what is retained
    before the broker is open is there for those who come."""

    def __init__(
        self, *, host: str, port: int, keyring: Keyring, clock: Clock, limits: Limits | None = None
    ) -> None:
        """Port 0 takes a free one."""
        self.host = host
        self.port = port
        self._keyring = keyring
        self._clock = clock
        self._limits = limits or Limits()
        self._exchange = Exchange(self._limits)
        self._broker: HardenedBroker | None = None

    @asynccontextmanager
    async def open(self, edge: Edge) -> AsyncIterator[None]:
        """Listen; `host` and `port` are in effect then.

        At the end it stops reading, waits until what was offered is acknowledged, and closes all connections.
        No wills are published then.

        Raises:
            Unusable: nobody can listen there.
        """
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        uplink = Uplink(edge)
        broker = HardenedBroker(
            exchange=self._exchange,
            uplink=uplink,
            keyring=self._keyring,
            clock=self._clock,
            limits=self._limits,
        )
        try:
            self.port = await broker.open(self.host, self.port)
        except OSError as problem:
            raise Unusable(f"MQTT: cannot listen on {self.host}:{self.port}: {_why(problem)}") from problem
        self._broker = broker
        self.emit(SYS_STATUS, edge.status(ONLINE), retain=True)
        try:
            yield
        finally:
            self.emit(SYS_STATUS, edge.status(OFFLINE), retain=True)
            await broker.shutdown()

    @property
    def url(self) -> str:
        """What clients call it by."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt://{host}:{self.port}"

    @property
    def problem(self) -> str | None:
        """Why nobody can connect now."""
        is_listening = self._broker is not None and self._broker.is_listening
        return None if is_listening else "the embedded broker does not listen"

    # --- the downlink ------------------------------------------------------------------------------

    def is_listening(self, agent_id: str) -> bool:
        """Whether the agent is connected and gets its commands."""
        subscriber = self._broker.subscriber_of(agent_id) if self._broker is not None else None
        return subscriber is not None and subscriber.listens_to(down_commands(agent_id))

    def is_watched(self, topic: str) -> bool:
        """Whether `emit` on this topic would reach anybody now; costs 0.2 µs while nobody watches."""
        return self._exchange.is_watched(topic)

    async def deliver(
        self, topic: str, payload: bytes, *, retain: bool = False, expires_at: datetime | None = None
    ) -> bool:
        """Publish with QoS 1; whether an agent that was connected acknowledged it within 10 s.

        For a kept session whose agent is away it waits, but never beyond `expires_at`.
        """
        verdicts = self._exchange.deliver(Message(topic, payload, 1, retain), expires_at)
        try:
            async with asyncio.timeout(self._limits.acknowledge_within):
                for verdict in asyncio.as_completed(verdicts):
                    if await verdict:
                        return True
        except TimeoutError:
            pass
        return False

    def emit(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish with QoS 0 and go on at once; slow readers lose it."""
        self._exchange.publish(Message(topic, payload, 0, retain))

    def keep(self, topic: str, payload: bytes) -> None:
        """Retain a message for those who come later; who watches now has seen it."""
        self._exchange.keep(Message(topic, payload, 0, retain=True))

    def end_sessions(self, principal_id: str) -> None:
        """Close every connection of this agent, or of this API token, and forget its sessions."""
        if self._broker is not None:
            self._broker.end_sessions(principal_id)


def _why(problem: OSError) -> str:
    """asyncio wraps the system's words for a port in use into a sentence of its own."""
    is_system = problem.errno is not None and problem.errno > 0
    return os.strerror(problem.errno).lower() if is_system and problem.errno else str(problem.strerror)
