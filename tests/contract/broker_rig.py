"""An embedded broker on a free port, with real sockets to it, and neighbours that a test can hold back.

Nothing waits for time to pass: that nothing came is shown by a PINGRESP that came instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from typing import NamedTuple

from pingup.brokers.edge import Edge
from pingup.brokers.embedded import Embedded
from pingup.brokers.limits import Limits
from pingup.clock import Clock, SystemClock
from pingup.errors import Reason, Rejected, Unavailable
from pingup.model import AgentKey, Algorithm, ApiToken, Inbound, Outcome, Principal, Scope
from pingup.services.keyring import Keyring
from pingup.signing import hash_token
from pingup.topics import SYS_STATUS, Kind, up
from tests.contract.mqtt_packets import (
    CONNACK,
    PINGRESP,
    SUBACK,
    Arrival,
    Packet,
    Will,
    arrival,
    connect,
    packet,
    subscribe,
)

PATIENCE = 5.0

# --- clients ---------------------------------------------------------------------------------------


class Peer:
    """A socket to the broker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, *packets: bytes) -> None:
        self.writer.write(b"".join(packets))

    async def read(self) -> Packet:
        async with asyncio.timeout(PATIENCE):
            first = (await self._reader.readexactly(1))[0]
            size = shift = 0
            while True:
                byte = (await self._reader.readexactly(1))[0]
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return Packet(first >> 4, first & 15, await self._reader.readexactly(size))

    async def expect(self, kind: int) -> Packet:
        received = await self.read()
        assert received.kind == kind, received
        return received

    async def arrival(self) -> Arrival:
        return arrival(await self.read())

    async def is_closed(self) -> bool:
        """Wait until the broker closes the connection; what it sends before is read over."""
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                while await self._reader.read(65536):
                    pass
        return True

    async def is_cut_off(self) -> bool:
        """Wait until the broker cuts the connection, of which nothing is read here."""
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                while True:
                    self.send(packet(0xC0))
                    await self.writer.drain()
                    await asyncio.sleep(0.01)
        return True

    async def is_quiet(self) -> bool:
        """Whether nothing was sent to this client: twice the answer to a ping comes first."""
        for _ in range(2):
            self.send(packet(0xC0))
            if (await self.read()).kind != PINGRESP:
                return False
        return True

    async def subscribe(self, *filters: str, qos: int = 1) -> list[int]:
        """The return codes."""
        self.send(subscribe(*filters, qos=qos))
        return list((await self.expect(SUBACK)).body[2:])

    async def leave(self) -> None:
        """Say goodbye, and wait until the broker has taken note of it."""
        self.send(packet(0xE0))
        await self.is_closed()
        await self.close()

    async def break_off(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


# --- neighbours ------------------------------------------------------------------------------------


class HeldIngest:
    """An ingest whose verdicts the test gives; `is_instant` commits at once."""

    def __init__(self) -> None:
        self.is_instant = True
        self.is_broken = False
        self.taken: list[Inbound] = []
        self.verdicts: list[asyncio.Future[Outcome]] = []
        self.space = asyncio.Event()
        self.space.set()
        self._waker = asyncio.Event()

    @property
    def has_room(self) -> bool:
        return self.space.is_set()

    async def room(self) -> None:
        await self.space.wait()

    def submit(self, inbound: Inbound) -> asyncio.Future[Outcome]:
        if self.is_broken:
            raise RuntimeError("the ingest is broken")
        verdict: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.taken.append(inbound)
        self.verdicts.append(verdict)
        self._waker.set()
        if self.is_instant:
            verdict.set_result(Outcome(stored=1))
        return verdict

    def take(self, inbound: Inbound) -> asyncio.Future[Outcome]:
        return self.submit(inbound)

    async def took(self, count: int) -> None:
        """Wait until this many messages were taken."""
        async with asyncio.timeout(PATIENCE):
            while len(self.taken) < count:
                self._waker.clear()
                await self._waker.wait()

    def release(self) -> None:
        """Commit everything, now and from now on."""
        self.is_instant = True
        self.space.set()
        for verdict in self.verdicts:
            if not verdict.done():
                verdict.set_result(Outcome(stored=1))

    def commit(self, index: int = -1) -> None:
        self.verdicts[index].set_result(Outcome(stored=1))

    def reject(self, index: int = -1) -> None:
        self.verdicts[index].set_exception(Rejected(Reason.INVALID, "no good"))

    def fail(self, index: int = -1) -> None:
        self.verdicts[index].set_exception(Unavailable("the store is down"))


class Refusal(NamedTuple):
    agent_id: str | None
    source: str
    reason: Reason


class CountedRejects:
    def __init__(self) -> None:
        self.noted: list[Refusal] = []

    def note(self, *, agent_id: str | None, source: str, reason: Reason, detail: str) -> None:
        assert detail
        self.noted.append(Refusal(agent_id, source, reason))


def edge(
    ingest: HeldIngest,
    rejects: CountedRejects,
    *,
    on_listening: Callable[[str], None] = print,
    on_connected: Callable[[], None] = print,
) -> Edge:
    """The server, as the broker sees it."""
    return Edge(ingest, rejects, on_listening, on_connected, str.encode)


class BrittleKeyring(Keyring):
    """A keyring that can break."""

    is_broken = False

    def login(self, username: str, password: str) -> Principal | None:
        if self.is_broken:
            raise RuntimeError("the keyring is broken")
        return super().login(username, password)


# --- all together ----------------------------------------------------------------------------------


class Rig:
    """A running broker and everything around it."""

    def __init__(
        self, broker: Embedded, keyring: BrittleKeyring, clock: Clock, stack: AsyncExitStack
    ) -> None:
        self.broker = broker
        self.keyring = keyring
        self.ingest = HeldIngest()
        self.rejects = CountedRejects()
        self.listening: list[str] = []
        self.edge = edge(self.ingest, self.rejects, on_listening=self.listening.append)
        self._clock = clock
        self._stack = stack

    def register(self, agent_id: str) -> str:
        """Make an agent; its token."""
        token = f"token-of-{agent_id}"
        self.keyring.put(AgentKey(agent_id, Algorithm.HMAC_SHA256, None, None, hash_token(token)))
        return token

    def admit(self, name: str, scope: Scope, expires_at: datetime | None = None) -> str:
        """Make an API token with this name as its id."""
        shown = f"pgp_{name}"
        token = ApiToken(name, name, scope, self._clock.now(), expires_at, None)
        self.keyring.admit(token, hash_token(shown))
        return shown

    async def peer(self) -> Peer:
        """A connection on which nothing was said."""
        reader, writer = await asyncio.open_connection(self.broker.host, self.broker.port)
        peer = Peer(reader, writer)
        self._stack.push_async_callback(peer.close)
        return peer

    async def try_connect(self, greeting: bytes) -> tuple[Peer, int]:
        """A connection and the return code of its CONNACK."""
        peer = await self.peer()
        peer.send(greeting)
        return peer, (await peer.expect(CONNACK)).body[1]

    async def agent(
        self,
        agent_id: str,
        *,
        clean: bool = True,
        keep_alive: int = 60,
        will: Will | None = None,
        present: bool = False,
    ) -> Peer:
        """An agent that is connected; `present` says whether its session was kept."""
        token = self.register(agent_id)
        return await self._join(agent_id, agent_id, token, clean, keep_alive, will, present)

    async def operator(
        self,
        name: str,
        scope: Scope = Scope.ADMIN,
        *,
        client_id: str | None = None,
        clean: bool = True,
        present: bool = False,
        expires_at: datetime | None = None,
    ) -> Peer:
        """A person with an API token of this name, connected."""
        token = self.admit(name, scope, expires_at)
        return await self._join(client_id or f"tool-{name}", "operator", token, clean, 60, None, present)

    async def _join(
        self,
        client_id: str,
        username: str,
        password: str,
        clean: bool,
        keep_alive: int,
        will: Will | None,
        present: bool,
    ) -> Peer:
        peer = await self.peer()
        peer.send(connect(client_id, username, password, clean=clean, keep_alive=keep_alive, will=will))
        connack = await peer.expect(CONNACK)
        assert connack.body == bytes([present, 0])
        return peer


@asynccontextmanager
async def open_rig(
    limits: Limits | None = None, clock: Clock | None = None, retained: Mapping[str, bytes] | None = None
) -> AsyncIterator[Rig]:
    """`retained` is said before the broker is open."""
    clock = clock or SystemClock()
    keyring = BrittleKeyring(clock)
    broker = Embedded(host="127.0.0.1", port=0, keyring=keyring, clock=clock, limits=limits)
    async with AsyncExitStack() as stack:
        rig = Rig(broker, keyring, clock, stack)
        for topic, payload in (retained or {}).items():
            broker.emit(topic, payload, retain=True)
        async with broker.open(rig.edge):
            # Tests count what they receive; the server's birth would be one more.
            broker.emit(SYS_STATUS, b"", retain=True)
            try:
                yield rig
            finally:
                # A closing broker waits for what it has offered.
                rig.ingest.release()


def metrics(agent_id: str) -> str:
    return up(agent_id, Kind.METRICS)


def status(agent_id: str) -> str:
    return up(agent_id, Kind.STATUS)
