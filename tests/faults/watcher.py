"""Somebody who is permitted to see everything, and writes down what comes by."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.contract import mqtt_packets as mqtt
from tests.contract.mqtt_packets import Packet, arrival
from tests.faults.load import split
from tests.faults.machine import HOST, Broken


@dataclass
class Watcher:
    """The messages that have come, decoded, oldest first."""

    seen: list[Any] = field(default_factory=list)
    _grown: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, packet: Packet) -> None:
        if packet.kind == mqtt.PUBLISH:
            self.seen.append(json.loads(arrival(packet).payload))
            self._grown.set()
            self._grown = asyncio.Event()

    async def until(self, fits: Callable[[list[Any]], bool], limit: float) -> None:
        """Wait until what was seen fits.

        Raises:
            Broken: it doesn't in so many seconds.
        """
        try:
            async with asyncio.timeout(limit):
                while not fits(self.seen):
                    await self._grown.wait()
        except TimeoutError:
            raise Broken(
                f"not seen in {limit:.0f} s; {len(self.seen)} others, the last {self.seen[-1:]}"
            ) from None


@asynccontextmanager
async def watching(port: int, user: str, password: str, topic_filter: str) -> AsyncIterator[Watcher]:
    """Subscribe and write down with QoS 0, until the connection ends."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(mqtt.connect("watcher", user, password, keep_alive=0))
    writer.write(mqtt.subscribe(topic_filter, qos=0))
    connack = await reader.readexactly(4)
    suback = await reader.readexactly(5)
    if connack[3] or suback[4] == 0x80:
        raise Broken("the watcher was not let in")
    watcher = Watcher()
    reading = asyncio.create_task(_read(reader, watcher))
    try:
        yield watcher
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader, watcher: Watcher) -> None:
    buffer = b""
    while received := await reader.read(65536):
        packets, buffer = split(buffer + received)
        for packet in packets:
            watcher.take(packet)
