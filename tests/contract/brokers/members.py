"""Who comes to a broker: agents and people with their credentials, and the clients that they come with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiomqtt

from tests.devices import Device

LIMIT = 10.0  # seconds that anything may take before a test gives up


@dataclass(frozen=True)
class Member:
    """A way into the broker. `id` is an agent's, or that of an operator's API token."""

    id: str
    user: str
    password: str
    client_id: str


@dataclass(frozen=True)
class Agent(Member):
    """An agent and what it signs with."""

    device: Device

    def up(self, kind: str) -> str:
        return f"pingup/v1/up/{self.id}/{kind}"

    def down(self, what: str) -> str:
        return f"pingup/v1/down/{self.id}/{what}"

    def live(self, what: str) -> str:
        return f"pingup/v1/live/{self.id}/{what}"


class Heard(NamedTuple):
    """A message that came to a client; `expiry` is the MQTT 5 message expiry interval, in seconds."""

    topic: str
    payload: bytes
    retain: bool
    qos: int
    expiry: int | None

    @property
    def content(self) -> dict[str, Any]:
        """The JSON object that it is; without members when it clears a topic."""
        content: dict[str, Any] = json.loads(self.payload or b"{}")
        return content


@dataclass
class Seat:
    """A connected client, what it subscribed to, and all that came to it."""

    client: aiomqtt.Client
    filters: list[str] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)

    async def subscribe(self, *filters: str) -> None:
        """Subscribe with QoS 1; a filter that is refused brings nothing."""
        self.filters += filters
        if filters:
            await self.client.subscribe([(topic_filter, 1) for topic_filter in filters])

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish and wait for the broker's acknowledgement."""
        await self.client.publish(topic, payload, qos=qos, retain=retain)

    async def next(self) -> Heard:
        """The next message that comes.

        Raises:
            aiomqtt.MqttError: the connection has ended.
        """
        async with asyncio.timeout(LIMIT):
            message = await anext(self.client.messages)
        assert isinstance(message.payload, bytes)
        expiry = getattr(message.properties, "MessageExpiryInterval", None)
        one = Heard(message.topic.value, message.payload, bool(message.retain), message.qos, expiry)
        self.heard.append(one)
        return one

    async def until(self, is_last: Callable[[Heard], bool]) -> Heard:
        """Hear until a message for which `is_last` holds; that one."""
        while not is_last(one := await self.next()):
            pass
        return one

    async def until_topic(self, topic: str, **members: Any) -> Heard:
        """Hear until a message on a topic, in whose JSON these members are; that one."""
        return await self.until(lambda one: one.topic == topic and members.items() <= one.content.items())

    async def ended(self) -> None:
        """Hear until the broker ends the connection."""
        try:
            while True:
                await self.next()
        except aiomqtt.MqttError:
            pass
