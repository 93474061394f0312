"""Retained messages that a client is still owed after it has subscribed."""

from __future__ import annotations

import asyncio

from pingup.access import may_receive
from pingup.brokers.exchange import Exchange
from pingup.brokers.framing import publish_bytes
from pingup.brokers.subscriber import Delivery, Subscriber
from pingup.brokers.wire import Wire


class Arrears:
    """Pays a client its retained messages, as fast as it reads, while its connection goes on.

    They are looked up at the moment of sending, so none is older than what the client has seen live. The
    task is owned by the connection, which calls `close`.
    """

    def __init__(self, exchange: Exchange, subscriber: Subscriber, wire: Wire) -> None:
        self._exchange = exchange
        self._subscriber = subscriber
        self._wire = wire
        self._owed: dict[str, int] = {}
        self._paying: asyncio.Task[None] | None = None

    def owe(self, topic_filter: str, granted: int) -> None:
        """The client is to get what is retained under the filter, with this QoS at most."""
        for topic in self._exchange.retained_topics(topic_filter):
            if may_receive(self._subscriber.principal, topic):
                self._owed[topic] = max(granted, self._owed.get(topic, 0))
        if self._owed and (self._paying is None or self._paying.done()):
            self._paying = asyncio.create_task(self._pay())

    async def close(self) -> None:
        """Stop paying."""
        self._owed.clear()
        if self._paying is not None:
            self._paying.cancel()
            await asyncio.wait([self._paying])

    async def _pay(self) -> None:
        while self._owed:
            topic = next(iter(self._owed))
            granted = self._owed.pop(topic)
            message = self._exchange.retained(topic)
            if message is None:
                continue
            if min(granted, message.qos):
                await self._subscriber.room()
                self._subscriber.send(Delivery(topic, message.payload, retain=True))
            else:
                await self._wire.drain()
                self._wire.write(publish_bytes(topic, message.payload, retain=True))
