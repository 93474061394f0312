"""One connection's bytes: packets in, answers out, and an end that never waits for its peer for long."""

from __future__ import annotations

import asyncio

from pingup.brokers.framing import Frames
from pingup.brokers.limits import Limits


class Wire:
    """A socket with a client at its other end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        self.frames = Frames(
            reader,
            publish_bytes=limits.payload_bytes + limits.overhead_bytes,
            other_bytes=limits.other_bytes,
        )
        self._limits = limits
        self._writer = writer
        self._transport = writer.transport
        self._transport.set_write_buffer_limits(high=limits.write_buffer_pause)

    def write(self, data: bytes) -> None:
        """Hand over bytes to be written; what makes them many has bounds of its own."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def show(self, packet: bytes) -> None:
        """Hand over a QoS 0 packet; a reader that is too slow loses it."""
        if self._transport.get_write_buffer_size() <= self._limits.write_buffer:
            self.write(packet)

    async def drain(self) -> None:
        """Wait while far too much is unread; a peer that leaves it so for long is cut off."""
        if not self._transport.get_write_buffer_size():
            return  # as nearly always
        try:
            async with asyncio.timeout(self._limits.stall):
                await self._writer.drain()
        except OSError:
            self.abort()

    def abort(self) -> None:
        """Cut the connection; what is unread is lost."""
        self._transport.abort()

    async def hang_up(self) -> None:
        """Close the connection, once the peer has taken what was written, or didn't in time."""
        self._writer.close()
        try:
            async with asyncio.timeout(self._limits.close_within):
                await self._writer.wait_closed()
        except OSError:
            self.abort()
