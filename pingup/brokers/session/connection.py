"""One network connection to an MQTT 5 broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import mqtt5

from pingup.brokers.session import reasons
from pingup.brokers.session.in_flight import InFlight
from pingup.brokers.session.line import Line
from pingup.brokers.session.options import Options, Subscription
from pingup.brokers.session.packets import Malformed, Message
from pingup.brokers.session.unacknowledged import Unacknowledged, Verdict
from pingup.errors import Unavailable

T = TypeVar("T")
OnMessages = Callable[[list[Message]], Sequence[Verdict | None]]

_Why = mqtt5.DisconnectReasonCode
_LARGEST = 268_435_460  # bytes that a packet can have at all (MQTT 5, section 1.5.5)
# The codec's reason codes are numbers only by name: they need int() to be compared or looked up.
_FAILURE = 0x80  # reason codes from here on say that something was not done


class Connection:
    """Speaks MQTT 5 over a `Line`; `connect` opens one.

    `on_messages` is called with the PUBLISHes that come, many at a time, and must not block. It returns a
    verdict for each: one with QoS 1 is acknowledged after that future, or at once when it is None; see
    `Unacknowledged`.

    Whatever is under way when the connection ends fails with `Unavailable`; nothing is sent again by itself.
    """

    def __init__(self, options: Options, on_messages: OnMessages) -> None:
        self.options = options
        self.line = Line(options, on_messages=self._bring, on_packet=self._handle, on_end=self._end)
        self.dropped = 0
        """QoS 0 messages that were not sent: the broker did not read fast enough, or takes none so large."""
        self.refused_with: int | None = None
        """The reason code of a CONNACK that did not accept us."""
        self._on_messages = on_messages
        self._greeted: asyncio.Future[mqtt5.ConnAckPacket] = asyncio.get_running_loop().create_future()
        self._unacknowledged = Unacknowledged(write=self._acknowledge, failed=self._cannot_take)
        self._in_flight = InFlight()
        self._is_paused = False

    async def greet(self) -> mqtt5.ConnAckPacket:
        """Send CONNECT; the broker's CONNACK.

        Raises:
            Unavailable: it refuses, or goes away.
        """
        self.line.write(_connect(self.options).write())
        return await self.until(self._greeted)

    @property
    def is_accepted(self) -> bool:
        """Whether the broker has taken us."""
        return self._greeted.done()

    @property
    def terms(self) -> mqtt5.ConnAckPacket:
        """What the broker has agreed to; there only after `greet`."""
        return self._greeted.result()

    # --- to the broker -----------------------------------------------------------------------------

    async def subscribe(self, *subscriptions: Subscription) -> None:
        """Subscribe to all of these.

        Raises:
            Unavailable: the broker refuses one, or grants less than its QoS; or the connection ends.
        """
        packet_id, answer = self._in_flight.subscribe()
        self.line.write(mqtt5.SubscribePacket(packet_id, [_filter(one) for one in subscriptions]).write())
        granted = await answer
        for subscription, code in zip(subscriptions, map(int, granted.reason_codes), strict=False):
            if code >= _FAILURE:
                words = reasons.of_code(code, granted.reason_str)
                raise Unavailable(f"the broker refuses to subscribe {subscription.topic_filter}: {words}")
            if code < subscription.qos:
                raise Unavailable(
                    f"the broker grants QoS {code} for {subscription.topic_filter}, "
                    f"{subscription.qos} is needed"
                )

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expires_in: int | None = None
    ) -> bool:
        """Publish with QoS 1; whether anybody subscribes to it, as far as the broker tells.

        It waits while the broker takes no more at a time; the caller sets a limit. `expires_in`: seconds.

        Raises:
            Unavailable: the broker refuses it, or the connection ends before it has answered.
        """
        self._check(topic, payload)
        packet_id, answer = await self._in_flight.publish()
        packet = mqtt5.PublishPacket(
            topic,
            payload,
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            retain=retain and self.terms.retain_available,
            packet_id=packet_id,
            message_expiry_interval=expires_in,
        )
        self.line.write(packet.write())
        answered = await answer
        code = int(answered.reason_code)
        if code >= _FAILURE:
            words = reasons.of_code(code, answered.reason_str)
            raise Unavailable(f"the broker refuses a message on {topic}: {words}")
        return code == mqtt5.PubAckReasonCode.SUCCESS

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Publish with QoS 0 and go on at once; False when it is dropped, and counted."""
        if not self.line.is_writable or _size(topic, payload) > self._max_packet:
            self.dropped += 1
            return False
        retain = retain and self.terms.retain_available
        self.line.write(mqtt5.PublishPacket(topic, payload, retain=retain).write())
        return True

    def ask(self, topic: str, payload: bytes, *, expires_in: int, on_answer: Callable[[bool], None]) -> bool:
        """Publish with QoS 1 and go on at once; `on_answer` learns whether anybody subscribes to it.

        False, and nothing is sent, where `send` would drop it, where the broker takes QoS 0 only, and while
        it has half of what it takes at a time still to answer.
        """
        if not self.line.is_writable or _size(topic, payload) > self._max_packet or self._takes_qos_0_only:
            return False
        asked = self._in_flight.try_publish()
        if asked is None:
            return False
        packet_id, answer = asked

        def answered(done: asyncio.Future[mqtt5.PubAckPacket]) -> None:
            if done.exception() is None and (code := int(done.result().reason_code)) < _FAILURE:
                on_answer(code == mqtt5.PubAckReasonCode.SUCCESS)

        answer.add_done_callback(answered)
        packet = mqtt5.PublishPacket(
            topic,
            payload,
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            packet_id=packet_id,
            message_expiry_interval=expires_in,
        )
        self.line.write(packet.write())
        return True

    @property
    def is_open(self) -> bool:
        """Whether it has neither ended nor begun to."""
        return self.line.why is None

    async def drained(self) -> None:
        """Wait until `send` takes something again, or the connection has ended."""
        await self.line.drained()

    # --- from the broker ---------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Take nothing more for now; pings still go out."""
        self._is_paused = True
        self._update_reading()

    def resume_reading(self) -> None:
        """Go on, with what had come already."""
        self._is_paused = False
        self._update_reading()

    async def acknowledged(self) -> None:
        """Wait until everything that was taken is acknowledged, or the connection has ended."""
        await self._unacknowledged.settled.wait()

    # --- the end -----------------------------------------------------------------------------------

    async def until(self, future: asyncio.Future[T]) -> T:
        """The result of somebody's future.

        Raises:
            Unavailable: the connection ends before it has one.
        """
        both: set[asyncio.Future[Any]] = {future, self.line.lost}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        raise self.line.problem()

    async def until_lost(self) -> None:
        """Wait for the end, which is always an error.

        Raises:
            Unavailable: it is over; the text says why.
        """
        await self.line.until_lost()

    def end(self, why: str) -> None:
        """End the connection with its will; the session is kept for as long as was agreed."""
        self.line.end(why, _Why.DISCONNECT_WITH_WILL_MESSAGE)

    async def disconnect(self) -> None:
        """Say goodbye, without a will, and wait until the connection is closed; the session is kept."""
        self.line.end("the connection is closed", _Why.NORMAL_DISCONNECTION)
        await asyncio.wait([self.line.lost])

    def abort(self) -> None:
        """Cut the connection."""
        self.line.abort("the connection is closed")

    # --- packets -----------------------------------------------------------------------------------

    def _handle(self, packet: mqtt5.Packet) -> None:
        match packet:
            case mqtt5.PubAckPacket() if self._in_flight.published(packet):
                pass
            case mqtt5.SubAckPacket() if self._in_flight.subscribed(packet):
                pass
            case mqtt5.PingRespPacket():
                pass
            case mqtt5.ConnAckPacket() if not self._greeted.done():
                self._begin(packet)
            case mqtt5.DisconnectPacket():
                self.line.abort(reasons.of_code(int(packet.reason_code), packet.reason_str))
            case _:
                raise Malformed(f"an unexpected {type(packet).__name__}")

    def _begin(self, terms: mqtt5.ConnAckPacket) -> None:
        if terms.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            self.refused_with = int(terms.reason_code)
            self.line.abort(reasons.of_code(int(terms.reason_code), terms.reason_str))
            return
        self._greeted.set_result(terms)
        self._in_flight.allow(terms.receive_max)
        demanded = terms.server_keep_alive
        self.line.keep_alive(self.options.keep_alive if demanded is None else demanded)

    def _bring(self, messages: list[Message]) -> None:
        if not self._greeted.done():
            raise Malformed("an unexpected PUBLISH")
        self._unacknowledged.add(messages, self._on_messages(messages))
        if self._is_full:
            self._update_reading()

    def _acknowledge(self, answers: bytes) -> None:
        self.line.write(answers)
        self._update_reading()

    def _cannot_take(self, problem: BaseException) -> None:
        """A message can't be taken now: a new connection brings it again."""
        if isinstance(problem, Unavailable | asyncio.CancelledError):
            self.end(str(problem) or "the server stops")
        else:
            self.line.fail(problem)

    @property
    def _is_full(self) -> bool:
        """Whether as much is unacknowledged as may be.

        Mosquitto 2.0 sends more than our Receive Maximum once acknowledgements flow. It is not read until
        there is room, rather than refused: the next connection would bring the same.
        """
        count, size = len(self._unacknowledged), self._unacknowledged.bytes
        return count > self.options.receive_maximum or size > self.options.unacknowledged_bytes

    def _update_reading(self) -> None:
        self.line.hold(self._is_paused or self._is_full)

    def _end(self, why: str) -> None:
        self._unacknowledged.drop()
        self._in_flight.fail(why)

    @property
    def _max_packet(self) -> int:
        return self.terms.max_packet_size or _LARGEST

    @property
    def _takes_qos_0_only(self) -> bool:
        return self.terms.max_qos == mqtt5.QoS.AT_MOST_ONCE

    def _check(self, topic: str, payload: bytes) -> None:
        if self._takes_qos_0_only:
            raise Unavailable("the broker takes QoS 0 only, QoS 1 is needed")
        size = _size(topic, payload)
        if size > self._max_packet:
            raise Unavailable(
                f"the broker takes {self._max_packet:,} bytes, the message on {topic} has {size:,}"
            )


def at_once(messages: list[Message]) -> Sequence[None]:
    """Verdicts for messages that are acknowledged at once."""
    return [None] * len(messages)


def _size(topic: str, payload: bytes) -> int:
    """What a PUBLISH takes at most, in bytes: length, id, expiry and their headers are 16."""
    return len(topic.encode()) + len(payload) + 16


def _filter(subscription: Subscription) -> mqtt5.TopicFilter:
    handling = mqtt5.RetainHandling
    return mqtt5.TopicFilter(
        subscription.topic_filter,
        max_qos=mqtt5.QoS(subscription.qos),
        no_local=not subscription.own,
        retain_handling=handling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
        if subscription.retained_once
        else handling.SEND_ALWAYS,
    )


def _connect(options: Options) -> mqtt5.ConnectPacket:
    user, will = options.credentials, options.will
    return mqtt5.ConnectPacket(
        options.client_id,
        username=None if user is None else user.username,
        password=None if user is None or user.password is None else user.password.encode(),
        clean_start=options.clean_start,
        will=None
        if will is None
        else mqtt5.Will(will.topic, payload=will.payload, qos=mqtt5.QoS.AT_LEAST_ONCE, retain=will.retain),
        keep_alive=options.keep_alive,
        session_expiry_interval=options.session_expiry,
        receive_max=options.receive_maximum,
        max_packet_size=options.max_packet,
    )
