"""Pingup and its broker as one house, of which there is a kind for every sort of broker.

A house hides what differs between them: how somebody gets an account and how it is taken away. Where a
broker cannot do what the contract asks, its `Ways` say so here, and broker_config/README.md says so to users.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import aiomqtt

from pingup import app
from pingup.app import Pingup
from pingup.errors import Unavailable
from pingup.settings import HttpSettings, MqttSettings, Settings
from tests.contract.broker_rig import Peer
from tests.contract.brokers.members import LIMIT, Agent, Member, Seat
from tests.devices import Device
from tests.mosquitto import HOST

ADMIN_TOKEN = "the-admin-token-of-the-house-for-tests"


@dataclass(frozen=True)
class Ways:
    """Where kinds of brokers differ, and are meant to."""

    is_external: bool
    """The broker stays when the server goes: it keeps sessions and queues meanwhile."""

    versions: tuple[aiomqtt.ProtocolVersion, ...]

    pins_every_client_id: bool
    """Whoever asks for a client id gets its own user name for one. The embedded broker refuses a foreign id
    instead, and lets operators choose."""

    retains_only_births: bool
    """Of what agents publish. Mosquitto's access rules know no retain flag."""

    counts_denied: bool
    """A denied publish is shown on `sys/rejects`. An external broker tells nobody."""

    forgets_at_once: bool
    """Who is revoked is out without an operator's step."""

    grants_wide_filters: bool
    """A subscription may reach beyond what its owner may receive, and brings what may be received of it.
    Dynamic security refuses it."""

    server_hears_its_own_status: bool
    """The pattern in an access list that lets agents receive `sys/status` holds for every user."""


class Server:
    """Pingup in a task of its own, so that any test may stop it and start it again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[Pingup] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name="server")

    async def _run(self) -> None:
        async with app.serve(self._settings) as pingup:
            self._ready.set_result(pingup)
            await pingup.crew.until(self._stop)

    async def ready(self) -> Pingup:
        either: set[asyncio.Future[Any]] = {self._task, self._ready}
        async with asyncio.timeout(LIMIT):
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            await self._task
        return self._ready.result()

    async def stop(self) -> None:
        self._stop.set()
        await self._task


class House(ABC):
    """A running Pingup, its broker, and the way in for everybody."""

    ways: Ways

    def __init__(self, directory: Path, http: aiohttp.ClientSession) -> None:
        self._directory = directory
        self._http = http
        self._server: Server | None = None
        self._names = itertools.count(1)
        self.pingup: Pingup

    @classmethod
    @asynccontextmanager
    async def open(cls, directory: Path) -> AsyncIterator[House]:
        """A house of this kind, with its server running."""
        async with aiohttp.ClientSession() as http:
            house = cls(directory, http)
            async with house._broker_running():
                await house._start()
                try:
                    yield house
                finally:
                    await house._stop()

    # --- what differs ------------------------------------------------------------------------------

    @abstractmethod
    def _broker_running(self) -> AbstractAsyncContextManager[None]:
        """The broker outside, if there is one, as an async context."""

    @abstractmethod
    def _mqtt_settings(self) -> MqttSettings: ...

    @abstractmethod
    def _operator_user(self, token_id: str) -> str: ...

    @abstractmethod
    async def _let_in(self, *members: Member, scope: str | None = None) -> None:
        """Give accounts at the broker to those that Pingup knows now; `scope` is an operator's."""

    @abstractmethod
    async def _everybody_is_let_in(self) -> None:
        """Wait until the accounts that were given can be used."""

    @abstractmethod
    async def _shut_out(self, member: Member) -> None:
        """Take away the account of somebody whom Pingup knows no more."""

    # --- the server --------------------------------------------------------------------------------

    async def _start(self) -> None:
        settings = Settings(
            data_dir=self._directory / "data",
            admin_token=ADMIN_TOKEN,
            http=HttpSettings(port=0),
            mqtt=self._mqtt_settings(),
        )
        self._server = Server(settings)
        self.pingup = await self._server.ready()
        await self._until_linked()

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def _until_linked(self) -> None:
        async with asyncio.timeout(LIMIT):
            # No event tells from outside.
            while (await self._read_health())["components"]["mqtt"]["status"] != "healthy":  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def _read_health(self) -> Any:
        async with self._http.get(f"{self.pingup.http_url}/health") as answer:
            return await answer.json()

    @asynccontextmanager
    async def vacated(self) -> AsyncIterator[None]:
        """The house while its server is away; it comes back with the same data."""
        await self._stop()
        try:
            yield
        finally:
            await self._start()

    async def call(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """A REST call as an admin; the decoded answer, which must have this status."""
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        url = f"{self.pingup.http_url}/api/v1{path}"
        async with self._http.request(method, url, json=body, headers=headers) as answer:
            text = await answer.text()
            assert answer.status == status, f"{method} {path}: {answer.status} {text}"
            return json.loads(text)

    async def history(self, agent: Agent) -> list[float]:
        """The cpu values that are stored of an agent, oldest first."""
        path = f"/metrics/{agent.id}?limit=10000&order=asc"
        return [sample["cpu"] for sample in (await self.call("GET", path))["metrics"]]

    async def order(self, agent: Agent, **members: Any) -> str:
        """Give an agent a command; its id."""
        body = {"agentId": agent.id, "action": "ping", **members}
        command_id: str = (await self.call("POST", "/commands", body, status=201))["command"]["commandId"]
        return command_id

    async def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Have the server publish, whatever its services think of it; the broker has it then or denies it."""
        with suppress(Unavailable):
            await self.pingup.services.rejects._downlink.deliver(topic, payload, retain=retain)

    # --- who comes and goes ------------------------------------------------------------------------

    async def agent(self) -> Agent:
        """Register an agent and let it in."""
        (agent,) = await self.agents(1)
        return agent

    async def agents(self, count: int) -> list[Agent]:
        made = [await self._register(f"agent-{next(self._names)}") for _ in range(count)]
        await self._let_in(*made)
        return made

    async def register_again(self, agent_id: str) -> Agent:
        """Register an agent under a name that was another's before, and let it in."""
        agent = await self._register(agent_id)
        await self._let_in(agent)
        return agent

    async def ed25519_agent(self, public_key: str) -> tuple[Agent, str]:
        """Register an agent that has a key pair, and let it in; the server's public key is with it."""
        agent_id = f"agent-{next(self._names)}"
        body = {"id": agent_id, "publicKey": public_key}
        credentials = (await self.call("POST", "/agents", body, status=201))["credentials"]
        agent = Agent(agent_id, agent_id, credentials["token"], agent_id, Device(agent_id, "", ""))
        await self._let_in(agent)
        return agent, credentials["serverPublicKey"]

    async def _register(self, agent_id: str) -> Agent:
        answer = await self.call("POST", "/agents", {"id": agent_id}, status=201)
        secret, token = answer["credentials"]["secret"], answer["credentials"]["token"]
        return Agent(agent_id, agent_id, token, agent_id, Device(agent_id, secret, token))

    async def operator(self, scope: str = "read", **members: Any) -> Member:
        """Make an API token and let its owner in."""
        body = {"name": "somebody", "scope": scope, **members}
        answer = await self.call("POST", "/tokens", body, status=201)
        token_id, token = answer["id"], answer["token"]
        user = self._operator_user(token_id)
        operator = Member(token_id, user, token, f"tool-{token_id}")
        await self._let_in(operator, scope=scope)
        return operator

    async def delete_agent(self, agent: Agent) -> None:
        """Remove an agent, with all that an operator has to do for it."""
        await self.call("DELETE", f"/agents/{agent.id}")
        await self._shut_out(agent)

    async def delete_token(self, operator: Member) -> None:
        """Revoke an API token, with all that an operator has to do for it."""
        await self.call("DELETE", f"/tokens/{operator.id}")
        await self._shut_out(operator)

    async def expire(self, operator: Member) -> None:
        """Do what an operator of the broker has to do about a token whose time is over."""
        if not self.ways.forgets_at_once:
            await self._shut_out(operator)

    # --- clients -----------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        port = urlsplit(self.pingup.mqtt_url).port
        assert port is not None
        return port

    def client(self, member: Member, **options: Any) -> aiomqtt.Client:
        """The client that strangers use, not yet connected; options are aiomqtt's."""
        usual = {
            "identifier": member.client_id,
            "username": member.user,
            "password": member.password,
            "timeout": LIMIT,
        }
        return aiomqtt.Client(HOST, self.port, **{**usual, **options})

    @asynccontextmanager
    async def seat(self, member: Member, *filters: str, **options: Any) -> AsyncIterator[Seat]:
        """A connected client that has subscribed; a connection that the broker has ended is no error."""
        await self._everybody_is_let_in()
        client = await self.client(member, **options).__aenter__()
        seat = Seat(client)
        try:
            await seat.subscribe(*filters)
            yield seat
        finally:
            if not client._disconnected.done():
                await client.__aexit__(None, None, None)

    @asynccontextmanager
    async def peer(self, greeting: bytes) -> AsyncIterator[Peer]:
        """A bare socket on which a CONNECT was sent; aborted at the end, as by a loss of power."""
        await self._everybody_is_let_in()
        async with self._socket(greeting) as peer:
            yield peer

    @asynccontextmanager
    async def _socket(self, greeting: bytes) -> AsyncIterator[Peer]:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        peer = Peer(reader, writer)
        peer.send(greeting)
        try:
            yield peer
        finally:
            await peer.break_off()
