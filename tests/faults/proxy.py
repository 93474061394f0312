"""A TCP proxy that cuts, stalls, tears packets apart and closes one half."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random

from tests.faults.machine import HOST

_CHUNK = 65536


class Line:
    """A connection through the proxy: two ways, each of which can be closed by itself."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._sides = (near, far)

    def cut(self) -> None:
        """Break it without a word."""
        for side in self._sides:
            side.transport.abort()

    def half_close(self, chance: Random) -> None:
        """Tell one side that nothing more will come; what it says is still carried."""
        with suppress(OSError, RuntimeError):
            chance.choice(self._sides).write_eof()


class Proxy:
    """Carries to one port. `port` is its own, the same until the end."""

    def __init__(self) -> None:
        self.port = 0
        self._target = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._lines: list[Line] = []
        self._tearing = 0
        self._carrying: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self, target: int) -> AsyncIterator[None]:
        self._target = target
        server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            self.heal()
            self.cut()
            for task in self._carrying:
                task.cancel()
            await asyncio.gather(*self._carrying, return_exceptions=True)

    async def misbehave(self, chance: Random) -> None:
        """Do harm at random moments until cancelled; then all is well."""
        try:
            while True:
                await asyncio.sleep(chance.uniform(0.02, 0.25))
                await self._harm(chance)
        finally:
            self.heal()

    async def _harm(self, chance: Random) -> None:
        match chance.choice(("cut", "cut one", "tear", "stall", "half-close")):
            case "cut":
                self.cut()
            case "cut one" if self._lines:
                chance.choice(self._lines).cut()
            case "tear":
                self._tearing = chance.randrange(1, 4)
            case "stall":
                await self.stall(chance.uniform(0.05, 0.6))
            case "half-close" if self._lines:
                chance.choice(self._lines).half_close(chance)

    def cut(self) -> None:
        """Break every connection."""
        for line in self._lines:
            line.cut()

    async def stall(self, seconds: float) -> None:
        """Carry nothing for so long, while the connections stay."""
        self._flowing.clear()
        await asyncio.sleep(seconds)
        self._flowing.set()

    def heal(self) -> None:
        """Carry everything again. Whoever was half-closed has to find out by himself."""
        self._tearing = 0
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        try:
            there, back = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        line = Line(writer, back)
        self._lines.append(line)
        try:
            # Python 3.11's streams report a cancelled callback as an error, so it must not end that way.
            with suppress(asyncio.CancelledError):
                await asyncio.gather(self._copy(reader, back, line), self._copy(there, writer, line))
        finally:
            self._lines.remove(line)
            line.cut()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line) -> None:
        with suppress(OSError, RuntimeError):
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                if self._tearing and len(data) > 1:
                    self._tearing -= 1
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    break
                writer.write(data)
                await writer.drain()
        line.cut()
