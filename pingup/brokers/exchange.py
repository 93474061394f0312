"""Who gets which message: subscriptions, retained messages, and the judgement of every single delivery."""

from __future__ import annotations

import asyncio
from datetime import datetime

import msgspec

from pingup.access import may_receive, may_subscribe
from pingup.brokers.framing import publish_bytes
from pingup.brokers.limits import Limits
from pingup.brokers.subscriber import Delivery, Subscriber
from pingup.brokers.topic_tree import TopicTree
from pingup.model import Role

REFUSED = 0x80
MAX_QOS = 1

Route = tuple[tuple[Subscriber, int], ...]
"""Each subscriber that gets the messages of a topic, once, with the best QoS of its filters that match."""


class Message(msgspec.Struct, frozen=True):
    """A message to whoever wants it and may have it."""

    topic: str
    payload: bytes
    qos: int
    retain: bool = False


class Exchange:
    """Passes messages on. Subscribers are known by their client ids."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._subscriptions: TopicTree[dict[str, tuple[Subscriber, int]]] = TopicTree()
        self._retained: TopicTree[Message] = TopicTree()
        self._routes: dict[str, Route] = {}

    # --- who wants what ----------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber, topic_filter: str, qos: int) -> int:
        """The QoS that is granted, at most 1, or 0x80 for a refusal."""
        filters = subscriber.filters
        is_too_much = topic_filter not in filters and len(filters) >= self._limits.filters
        if is_too_much or not may_subscribe(subscriber.principal, topic_filter):
            return REFUSED
        granted = min(qos, MAX_QOS)
        grants = self._subscriptions.get(topic_filter)
        if grants is None:
            grants = {}
            self._subscriptions.put(topic_filter, grants)
        grants[subscriber.client_id] = (subscriber, granted)
        filters[topic_filter] = granted
        self._routes.clear()
        return granted

    def unsubscribe(self, subscriber: Subscriber, topic_filter: str) -> None:
        if subscriber.filters.pop(topic_filter, None) is None:
            return
        self._routes.clear()
        grants = self._subscriptions.get(topic_filter)
        if grants is not None:
            del grants[subscriber.client_id]
            if not grants:
                self._subscriptions.drop(topic_filter)

    def forget(self, subscriber: Subscriber) -> None:
        """Drop a subscriber and everything that is on its way to it."""
        for topic_filter in list(subscriber.filters):
            self.unsubscribe(subscriber, topic_filter)
        subscriber.clear()

    # --- messages ----------------------------------------------------------------------------------

    def publish(self, message: Message) -> None:
        """Pass a message on, and keep it if it is to be retained (an empty one clears its topic)."""
        self._pass_on(message, None)

    def deliver(self, message: Message, expires_at: datetime | None) -> list[asyncio.Future[bool]]:
        """Pass a message on; for each connected agent that gets it, whether it acknowledges it.

        An agent that has subscribed with QoS 0 wants nothing to acknowledge. People who watch the same topic
        acknowledge for themselves only.
        """
        verdicts: list[asyncio.Future[bool]] = []
        self._pass_on(message, expires_at, verdicts)
        return verdicts

    def _pass_on(
        self,
        message: Message,
        expires_at: datetime | None,
        verdicts: list[asyncio.Future[bool]] | None = None,
    ) -> None:
        if message.retain:
            self.keep(message)
        packet = b""
        for subscriber, granted in self._route(message.topic):
            if min(granted, message.qos):
                verdict = None
                if verdicts is not None and subscriber.wire and subscriber.principal.role is Role.AGENT:
                    verdict = asyncio.get_running_loop().create_future()
                    verdicts.append(verdict)
                subscriber.send(
                    Delivery(message.topic, message.payload, expires_at=expires_at, acknowledged=verdict)
                )
            elif subscriber.wire is not None:
                # One QoS 0 packet is the same for all.
                packet = packet or publish_bytes(message.topic, message.payload, retain=False)
                subscriber.wire.show(packet)
                if verdicts is not None and subscriber.principal.role is Role.AGENT:
                    verdicts.append(_sent())

    def has_receivers(self, topic: str) -> bool:
        """Whether a message on the topic would reach somebody, now or when a kept session comes back."""
        return bool(self._route(topic))

    def is_watched(self, topic: str) -> bool:
        """Whether somebody who is connected would get a message on the topic now."""
        route = self._route(topic)
        return bool(route) and any(subscriber.wire is not None for subscriber, _ in route)

    def _route(self, topic: str) -> Route:
        """Every message asks for it, and few change it: it is remembered until a subscription changes."""
        route = self._routes.get(topic)
        if route is None:
            if len(self._routes) >= self._limits.routes:
                self._routes.clear()
            route = self._routes[topic] = self._find_route(topic)
        return route

    def _find_route(self, topic: str) -> Route:
        best: dict[str, tuple[Subscriber, int]] = {}
        for grants in self._subscriptions.matched_by_topic(topic):
            for client_id, (subscriber, granted) in grants.items():
                if client_id not in best or best[client_id][1] < granted:
                    best[client_id] = (subscriber, granted)
        return tuple(entry for entry in best.values() if may_receive(entry[0].principal, topic))

    # --- retained messages -------------------------------------------------------------------------

    def keep(self, message: Message) -> None:
        """Retain a message, or clear its topic if it is empty; nobody gets it now."""
        if message.payload:
            self._retained.put(message.topic, message)
        else:
            self._retained.drop(message.topic)

    def retained(self, topic: str) -> Message | None:
        """What is retained on a topic now."""
        return self._retained.get(topic)

    def retained_topics(self, topic_filter: str) -> list[str]:
        """The topics that the filter matches and that have a retained message."""
        return [topic for topic, _ in self._retained.matched_by_filter(topic_filter)]


def _sent() -> asyncio.Future[bool]:
    sent: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    sent.set_result(True)
    return sent
