"""amqtt's protocol handler: one connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from amqtt.mqtt.disconnect import DisconnectPacket
from amqtt.mqtt.packet import PUBLISH, MQTTPacket
from amqtt.mqtt.pingreq import PingReqPacket
from amqtt.mqtt.pingresp import PingRespPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.pubrel import PubrelPacket
from amqtt.mqtt.suback import SubackPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsuback import UnsubackPacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket

from pingup.access import may_retain
from pingup.brokers.arrears import Arrears
from pingup.brokers.exchange import REFUSED, Message
from pingup.brokers.framing import Frame, Publish, Violation, pubcomp, read_packet, read_publish
from pingup.brokers.receipts import Receipts
from pingup.brokers.watch import Watch
from pingup.brokers.wire import Wire
from pingup.model import Role
from pingup.topics import Kind, down_commands, matches

if TYPE_CHECKING:
    from pingup.brokers.hardened.broker import HardenedBroker
    from pingup.brokers.hardened.session import HardenedSession

log = logging.getLogger(__name__)

_TELEMETRY = (Kind.METRICS, Kind.DISCOVERY)
_PONG = PingRespPacket.build().to_bytes()


class HardenedHandler(BrokerProtocolHandler):
    """One connection of somebody known: takes its packets, answers them in order, and parts.

    Beside the task that it lives in it has one that reads, which can be stopped at any time.
    """

    def __init__(
        self, broker: HardenedBroker, session: HardenedSession, will: Publish | None, wire: Wire
    ) -> None:
        super().__init__(broker.plugins_manager, session)
        self.parted = asyncio.Event()
        self._broker = broker
        self._wire = wire
        self._subscriber = subscriber = session.subscriber
        self._principal = subscriber.principal
        is_permitted = will is not None and broker.uplink.kind_of(self._principal, will) is not None
        self._will = will if is_permitted else None
        # What it may publish on and has published on: at most the five topics of an agent.
        self._kinds: dict[str, Kind] = {}
        self._read_at = broker.clock.now()
        self._is_open = True
        self._is_draining = False
        self._arrears = Arrears(broker.exchange, subscriber, wire)
        self._receipts = Receipts(
            received=session.inflight_in,
            limits=broker.limits,
            write=wire.write,
            committed=self._pass_on,
            failed=self.end,
        )
        self._watch = Watch(
            keep_alive=session.keep_alive,
            expires_at=self._principal.expires_at,
            clock=broker.clock,
            silent=self.handle_read_timeout,
            expired=lambda: broker.forget(subscriber.client_id),
        )

    # --- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Serve the connection until it is over.

        amqtt: a task for each packet, and redeliveries that hold up everything else for up to 10 s.
        """
        self._reader_task = asyncio.create_task(self._reader_loop())
        self._watch.start()
        self._subscriber.connect(self._wire)
        self._tell_if_listening(self._subscriber.filters)
        try:
            await asyncio.wait([self._reader_task])
            if self._is_draining:
                await self._broker.closing.wait()
        finally:
            await self._part()
        await self.settle()
        _raise_bug(self._reader_task)

    def end(self, *, with_will: bool = True) -> None:
        """Cut the connection."""
        if not with_will:
            self._will = None
        self._stop_reader()
        self._wire.abort()

    def stop_reading(self) -> None:
        """Take nothing more in; what was offered is still acknowledged. The server's end kills nobody."""
        self._is_draining = True
        self._will = None
        self._watch.close()
        self._stop_reader()

    async def settle(self) -> None:
        """Wait until everything that was offered is acknowledged, or lost its chance to be."""
        await self._receipts.settled.wait()

    def _stop_reader(self) -> None:
        if self._reader_task is not None:
            self._reader_task.cancel()

    async def _part(self) -> None:
        self._stop_reader()
        self._watch.close()
        self._receipts.mute()
        if not self._is_draining:
            self._wire.abort()
        await self._arrears.close()
        if self._will is not None:
            await self._publish_will(self._will)
        self._broker.leave(self)
        self.parted.set()

    async def _publish_will(self, will: Publish) -> None:
        """amqtt: sends a will past every check to whoever has subscribed, and stores nothing."""
        try:
            async with asyncio.timeout(self._broker.limits.will_within):
                await self._take_in(will, self._broker.clock.now())
        except TimeoutError:
            log.warning("the will of client %r is lost: the server takes nothing", self._subscriber.client_id)

    # --- packets -----------------------------------------------------------------------------------

    async def _reader_loop(self) -> None:
        """amqtt: swallows every error and goes on, or leaves the client hanging."""
        while self._is_open:
            frame = self._wire.frames.take()
            if frame is None:
                await self._wire.drain()
                self._watch.listen()
                self._is_open = await self._wire.frames.more()
                self._read_at = self._broker.clock.now()
                self._watch.heard()
            elif frame.kind == PUBLISH:
                await self._take_publish(frame)
            else:
                await self._take_packet(await read_packet(frame))

    async def _take_publish(self, frame: Frame) -> None:
        """amqtt: acknowledges what has entered its queue, before anybody has looked at or stored it."""
        publish = read_publish(frame)
        if len(publish.payload) > self._broker.limits.payload_bytes:
            raise Violation("a payload over the limit")
        if self._receipts.is_repeat(publish):
            return
        if not self._receipts.has_room:
            await self._receipts.room()
            self._read_at = self._broker.clock.now()
        await self._take_in(publish, self._read_at)

    async def _take_in(self, publish: Publish, at: datetime) -> None:
        """Hand a message in that was received at this moment, as soon as there is room."""
        kind = self._kind_of(publish)
        if kind is None:
            self._receipts.add(publish, None)
            return
        uplink = self._broker.uplink
        if not uplink.has_room:
            await uplink.room()
            # There is no room while the clock is wrong, nor was it right for what was read with this one.
            at = self._read_at = self._broker.clock.now()
        # Of telemetry that nobody watches nobody is told what became of it, so it can share its verdict.
        is_plain = kind in _TELEMETRY and not self._broker.exchange.has_receivers(publish.topic)
        bring = uplink.take if is_plain else uplink.submit
        self._receipts.add(publish, bring(self._principal, kind, publish, at), pass_on=not is_plain)

    def _kind_of(self, publish: Publish) -> Kind | None:
        kind = self._kinds.get(publish.topic)
        if kind is None:
            kind = self._broker.uplink.kind_of(self._principal, publish)
            if kind is not None:
                self._kinds[publish.topic] = kind
        return kind

    async def _take_packet(self, packet: MQTTPacket[Any, Any, Any]) -> None:
        match packet:
            case PubackPacket():
                self._subscriber.acknowledge(packet.packet_id)
            case PingReqPacket():
                self._wire.write(_PONG)
            case PubrelPacket():
                self._receipts.release(packet.packet_id)
                self._wire.write(pubcomp(packet.packet_id))
            case SubscribePacket():
                await self.handle_subscribe(packet)
            case UnsubscribePacket():
                await self.handle_unsubscribe(packet)
            case DisconnectPacket():
                await self.handle_disconnect(packet)
            case _:
                raise Violation("a packet that no client sends here")

    def handle_read_timeout(self) -> None:
        """amqtt: does nothing, so that a half-open client stays for ever and its will is never published."""
        self.end()

    async def handle_disconnect(self, disconnect: DisconnectPacket | None) -> None:
        """amqtt: lets a task end the connection later; what came after the goodbye would still count."""
        self._will = None
        self._is_open = False

    async def handle_subscribe(self, subscribe: SubscribePacket) -> None:
        """amqtt: queues requests without a bound, takes one without filters, or for QoS 3."""
        packet_id, wanted = _unpack(subscribe)
        if any(qos > 2 or "\0" in topic_filter for topic_filter, qos in wanted):
            raise Violation("a malformed SUBSCRIBE")
        exchange = self._broker.exchange
        granted = [exchange.subscribe(self._subscriber, topic_filter, qos) for topic_filter, qos in wanted]
        self._wire.write(SubackPacket.build(packet_id, granted).to_bytes())
        taken = {one: qos for (one, _), qos in zip(wanted, granted, strict=True) if qos != REFUSED}
        for topic_filter, qos in taken.items():
            self._arrears.owe(topic_filter, qos)
        self._tell_if_listening(taken)

    async def handle_unsubscribe(self, unsubscribe: UnsubscribePacket) -> None:
        """amqtt: queues requests without a bound, and takes one without filters."""
        packet_id, topic_filters = _unpack(unsubscribe)
        for topic_filter in topic_filters:
            self._broker.exchange.unsubscribe(self._subscriber, topic_filter)
        self._wire.write(UnsubackPacket.build(packet_id).to_bytes())

    def _pass_on(self, publish: Publish) -> None:
        retain = publish.retain and may_retain(publish.topic)
        message = Message(publish.topic, publish.payload, publish.qos, retain)
        self._broker.exchange.publish(message)

    def _tell_if_listening(self, filters: Iterable[str]) -> None:
        """Tell if these filters bring an agent its commands."""
        agent_id = self._principal.id
        commands = down_commands(agent_id)
        if self._principal.role is Role.AGENT and any(matches(commands, wanted) for wanted in filters):
            self._broker.uplink.on_listening(agent_id)


def _unpack(packet: SubscribePacket | UnsubscribePacket) -> tuple[int, list[Any]]:
    """The packet id and what is asked for."""
    header, payload = packet.variable_header, packet.payload
    if header is None or payload is None or not header.packet_id or not payload.topics:
        raise Violation("a request for nothing")
    return header.packet_id, payload.topics


def _raise_bug(task: asyncio.Task[None]) -> None:
    """What ends a reader is a broken connection, a broken rule, or its owner; anything else is a bug."""
    if task.cancelled():
        return
    problem = task.exception()
    if problem is not None and not isinstance(problem, (Violation, OSError)):
        raise problem
