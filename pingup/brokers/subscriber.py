"""One client's session as a receiver: who it is, what it asked for, what is on its way to it.

QoS 1 in one rule: a message is kept until the client acknowledges it or its time is over. While the client
is connected it is sent once; when a kept session comes back, what has no acknowledgement is sent again with
DUP, in order, then what has waited. A session that is not kept loses both with its connection. What is over
the bounds is dropped, the newest first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from datetime import datetime
from typing import cast

from amqtt.session import OutgoingApplicationMessage, Session

from pingup.brokers.limits import Limits
from pingup.brokers.wire import Wire
from pingup.clock import Clock
from pingup.model import Principal
from pingup.topics import matches

log = logging.getLogger(__name__)


class Delivery(OutgoingApplicationMessage):
    """A QoS 1 message on its way to one client. `acknowledged` is told how that ended, if anybody asks."""

    __slots__ = ("acknowledged", "expires_at")

    def __init__(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expires_at: datetime | None = None,
        acknowledged: asyncio.Future[bool] | None = None,
    ) -> None:
        super().__init__(None, topic, 1, payload, retain)
        self.expires_at = expires_at
        self.acknowledged = acknowledged

    def tell(self, *, acknowledged: bool) -> None:
        if self.acknowledged is not None and not self.acknowledged.done():
            self.acknowledged.set_result(acknowledged)


class Subscriber:
    """What the broker keeps of a client that receives."""

    def __init__(
        self, session: Session, *, client_id: str, principal: Principal, limits: Limits, clock: Clock
    ) -> None:
        """`session` is amqtt's; its packet ids and its messages in flight are used."""
        self.client_id = client_id
        self.principal = principal
        self.filters: dict[str, int] = {}
        self.wire: Wire | None = None
        self._session = session
        # Only deliveries get in there, by `_pump`.
        self._in_flight = cast("OrderedDict[int, Delivery]", session.inflight_out)
        self._limits = limits
        self._clock = clock
        self._waiting: deque[Delivery] = deque()
        self._waiting_bytes = 0
        self._in_flight_bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_dropping = False

    def listens_to(self, topic: str) -> bool:
        """Whether the client is connected and has subscribed to the topic."""
        return self.wire is not None and any(matches(topic, wanted) for wanted in self.filters)

    async def room(self) -> None:
        """Wait while as much waits for the client as half of the bounds."""
        await self._has_room.wait()

    def send(self, delivery: Delivery) -> None:
        """Send a message as soon as the client takes it; a kept session's client may be away."""
        size = len(delivery.data)
        is_full = (
            len(self._waiting) >= self._limits.queued
            or self._waiting_bytes + size > self._limits.queued_bytes
        )
        if (self.wire is None and self._session.clean_session) or is_full:
            self._drop(delivery, is_full=is_full)
            return
        self._is_dropping = False
        self._waiting.append(delivery)
        self._waiting_bytes += size
        self._pump()

    def acknowledge(self, packet_id: int) -> None:
        """The client has the message that was sent under this packet id."""
        delivery = self._in_flight.pop(packet_id, None)
        if delivery is not None:
            self._in_flight_bytes -= len(delivery.data)
            delivery.tell(acknowledged=True)
            self._pump()

    def connect(self, wire: Wire) -> None:
        """The client is there: send again what it has not acknowledged, then what has waited."""
        self.wire = wire
        for packet_id, delivery in list(self._in_flight.items()):
            if self._is_over(delivery):
                self._in_flight_bytes -= len(delivery.data)
                del self._in_flight[packet_id]
            else:
                wire.write(delivery.build_publish_packet(dup=True).to_bytes())
        self._pump()

    def disconnect(self) -> None:
        """The client is gone; nobody who waits for an acknowledgement waits any longer."""
        self.wire = None
        for delivery in (*self._in_flight.values(), *self._waiting):
            delivery.tell(acknowledged=False)

    def clear(self) -> None:
        """Forget everything that is on its way."""
        self.disconnect()
        self._in_flight.clear()
        self._waiting.clear()
        self._waiting_bytes = self._in_flight_bytes = 0

    def _pump(self) -> None:
        while self.wire is not None and self._waiting and self._fits(self._waiting[0]):
            delivery = self._waiting.popleft()
            self._waiting_bytes -= len(delivery.data)
            if self._is_over(delivery):
                delivery.tell(acknowledged=False)
                continue
            delivery.packet_id = self._session.next_packet_id
            self._in_flight[delivery.packet_id] = delivery
            self._in_flight_bytes += len(delivery.data)
            self.wire.write(delivery.build_publish_packet().to_bytes())
        is_half_full = (
            len(self._waiting) > self._limits.queued // 2
            or self._waiting_bytes > self._limits.queued_bytes // 2
        )
        if is_half_full:
            self._has_room.clear()
        else:
            self._has_room.set()

    def _fits(self, delivery: Delivery) -> bool:
        in_flight = len(self._in_flight)
        size = self._in_flight_bytes + len(delivery.data)
        return in_flight == 0 or (in_flight < self._limits.in_flight and size <= self._limits.in_flight_bytes)

    def _is_over(self, delivery: Delivery) -> bool:
        return delivery.expires_at is not None and delivery.expires_at <= self._clock.now()

    def _drop(self, delivery: Delivery, *, is_full: bool) -> None:
        delivery.tell(acknowledged=False)
        if is_full and not self._is_dropping:
            log.warning("too much waits for client %r, what comes now is dropped", self.client_id)
            self._is_dropping = True
