"""The socket under a connection: bytes in and out, keep-alive, reading on and off, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import mqtt5

from pingup.brokers.session import reasons
from pingup.brokers.session.options import KIB, Options
from pingup.brokers.session.packets import Malformed, Message, Packets
from pingup.brokers.session.pulse import Pulse
from pingup.errors import Unavailable

_TOGETHER = 64 * KIB
_PING = mqtt5.PingReqPacket().write()
_Why = mqtt5.DisconnectReasonCode
# Mosquitto 2.0 says nothing in either case.
_SILENT_END = (
    "the broker closed the connection without a reason; it may be stopping, "
    "or another client with the same id took the session over"
)


class Line(asyncio.Protocol):
    """Hands on packets until the first reason to end; that one is what everybody is told."""

    def __init__(
        self,
        options: Options,
        *,
        on_messages: Callable[[list[Message]], None],
        on_packet: Callable[[mqtt5.Packet], None],
        on_end: Callable[[str], None],
    ) -> None:
        """`on_messages` gets PUBLISHes together that came together, `on_packet` each other packet.

        Both may raise `Malformed`. `on_end` is told once, in words, why nothing more comes.
        """
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        """Done when the socket is closed."""
        self.why: str | None = None
        """Why it ended, or is about to."""
        self.is_reset = False
        """Whether the broker ended it as no protocol does."""
        self._options = options
        self._on_messages = on_messages
        self._on_packet = on_packet
        self._on_end = on_end
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._packets = Packets(options.max_packet)
        self._pulse = Pulse(ping=lambda: self.write(_PING), silent=self._give_up)
        self._writable = asyncio.Event()
        self._writable.set()
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._is_held = False
        self._bug: BaseException | None = None
        self._limit: asyncio.TimerHandle | None = None

    @property
    def is_writable(self) -> bool:
        """Whether it is open and not too much waits to be written."""
        return self.why is None and self._writable.is_set()

    def write(self, data: bytes) -> None:
        """Hand over bytes to be written; what makes them many has bounds of its own.

        What is written in one turn of the loop goes out together: a call of the system costs more than most
        packets.
        """
        if self.why is not None or self._transport is None:
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)
        self._outgoing_bytes += len(data)
        if self._outgoing_bytes >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        if self._outgoing and self._transport is not None:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()
        self._outgoing_bytes = 0

    async def drained(self) -> None:
        """Wait until it is writable, or has ended."""
        await self._writable.wait()

    def keep_alive(self, seconds: int) -> None:
        """Begin to ping, and to expect something within 1.5 of this time; 0 for neither."""
        self._pulse.start(seconds)

    def hold(self, is_held: bool) -> None:
        """Stop reading, or go on with what has come already."""
        if is_held is self._is_held or self.why is not None or self._transport is None:
            return
        self._is_held = is_held
        self._pulse.listen(not is_held)
        if is_held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
            self._loop.call_soon(self._take)

    # --- the end -----------------------------------------------------------------------------------

    async def until_lost(self) -> None:
        """Wait for the end, which is always an error.

        Raises:
            Unavailable: it is over; the text says why.
        """
        await asyncio.wait([self.lost])
        raise self.problem()

    def problem(self) -> BaseException:
        """The end as an exception; that of a bug is the bug."""
        return self._bug or Unavailable(self.why or "the connection is open")

    def end(self, why: str, code: mqtt5.DisconnectReasonCode) -> None:
        """Tell the broker that we go. It closes then, and if it doesn't soon, we do.

        What comes until then is read and dropped: closing a socket with unread bytes resets the connection,
        and the broker might not see our last packets.
        """
        self.hold(False)
        self.write(mqtt5.DisconnectPacket(reason_code=code).write())
        self._stop(why)
        if self._limit is None:
            self._limit = self._loop.call_later(self._options.leave_within, self._cut)

    def abort(self, why: str) -> None:
        """Cut the connection; what is not written yet is lost."""
        self._stop(why)
        self._cut()

    def fail(self, bug: BaseException) -> None:
        """Cut the connection because of an error that nobody expected; `until_lost` raises it."""
        self._bug = self._bug or bug
        self.abort("an unexpected error")

    def _stop(self, why: str) -> None:
        if self.why is None:
            self.why = why
            self._pulse.stop()
            self._writable.set()
            self._on_end(why)

    def _cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _give_up(self) -> None:
        self.abort("the broker is silent, it does not answer pings")

    # --- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._options.write_buffer)

    def data_received(self, data: bytes) -> None:
        if self.why is None:
            self._pulse.heard()
            self._packets.feed(data)
            self._take()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError):
            self.is_reset = isinstance(exc, ConnectionResetError)
            self._stop(reasons.of_error(exc))
        elif exc is not None:
            self._bug = self._bug or exc
        self._stop(_SILENT_END)
        self._outgoing.clear()
        if self._limit is not None:
            self._limit.cancel()
        self.lost.set_result(None)

    def _take(self) -> None:
        """Hand on what has come, as long as we read at all."""
        try:
            while not self._is_held and self.why is None:
                messages = self._packets.take_messages()
                if messages:
                    self._on_messages(messages)
                    continue
                packet = self._packets.take_other()
                if packet is None:
                    return
                self._on_packet(packet)
        except Malformed as problem:
            self.end(f"the broker sent something that is not MQTT 5: {problem}", _Why.PROTOCOL_ERROR)
        except BaseException as bug:
            self.fail(bug)
            raise
