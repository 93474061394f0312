"""Agents: registered with their credentials, looked up, changed, removed without a trace on the broker."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Any

import msgspec

from pingup import signing
from pingup.clock import Clock
from pingup.discreet import without
from pingup.errors import Conflict, Invalid, NotFound
from pingup.model import Agent, AgentKey, Algorithm
from pingup.model import Presence as Status
from pingup.ports import AgentStore, Downlink, TelemetryStore
from pingup.services.configs import Configs
from pingup.services.downward import Downward
from pingup.services.keyring import Keyring
from pingup.services.ledger import Ledger
from pingup.services.live import Live
from pingup.services.presence import Presence
from pingup.topics import Kind, is_agent_id, up

MAX_SECRET_LENGTH = 1024
ID_RULE = "1 to 64 letters, digits, '.', '_' and '-', a letter or digit first, and no reserved word"


class Credentials(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What an agent needs to speak to the server, shown once. An Ed25519 agent keeps its private key."""

    token: str
    algorithm: Algorithm
    secret: str | None = None
    server_public_key: str | None = None

    def __repr__(self) -> str:
        return without(self, "token", "secret")


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A new agent as its operator describes it: with a secret, with a public key, or with neither."""

    id: str
    name: str | None = None
    metadata: dict[str, Any]
    tags: tuple[str, ...]
    secret: str | None = None
    public_key: str | None = None

    def __repr__(self) -> str:
        return without(self, "secret")


class Agents:
    """The fleet."""

    def __init__(
        self,
        store: AgentStore,
        telemetry: TelemetryStore,
        ledger: Ledger,
        keyring: Keyring,
        presence: Presence,
        configs: Configs,
        live: Live,
        downward: Downward,
        downlink: Downlink,
        clock: Clock,
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._ledger = ledger
        self._keyring = keyring
        self._presence = presence
        self._configs = configs
        self._live = live
        self._downward = downward
        self._downlink = downlink
        self._clock = clock

    async def register(self, wish: Registration) -> tuple[Agent, Credentials]:
        """Add an agent and make its credentials.

        Raises:
            Invalid: a bad id, secret or public key.
            Conflict: the id exists, or the secret is another agent's.
        """
        if not is_agent_id(wish.id):
            raise Invalid("bad agent id", {"id": ID_RULE})
        key, credentials = self._make_key(wish)
        agent = Agent(
            wish.id,
            wish.name,
            Status.OFFLINE,
            None,
            wish.metadata,
            wish.tags,
            key.algorithm,
            self._clock.now(),
        )
        await self._store.add(agent, key)
        self._keyring.put(key)
        self._presence.add(agent)
        await self._keyring.passed_on()
        return agent, credentials

    async def get(self, agent_id: str) -> Agent:
        """An agent as it is now.

        Raises:
            NotFound: there is no such agent.
        """
        agent = await self._store.get(agent_id)
        if agent is None:
            raise NotFound(f"there is no agent {agent_id}")
        return self._presence.overlay(agent)

    async def page(
        self, *, status: Status | None, tag: str | None, query: str | None, limit: int, after: str | None
    ) -> list[Agent]:
        """Agents by id."""
        await self._presence.settle()
        agents = await self._store.page(status=status, tag=tag, query=query, limit=limit, after=after)
        return [self._presence.overlay(agent) for agent in agents]

    async def change(
        self,
        agent_id: str,
        *,
        name: str | None = None,
        metadata: dict[str, Any] | None = None,
        tags: Sequence[str] | None = None,
    ) -> Agent:
        """Change what is given.

        Raises:
            NotFound: there is no such agent.
        """
        agent = await self._store.change(agent_id, name=name, metadata=metadata, tags=tags)
        if agent is None:
            raise NotFound(f"there is no agent {agent_id}")
        return self._presence.overlay(agent)

    async def remove(self, agent_id: str, *, purge: bool) -> None:
        """Remove an agent: its key counts no more, its sessions end, nothing of it stays retained.

        Args:
            purge: delete its telemetry too, also that of an agent that was removed before.

        Raises:
            NotFound: there is no such agent, nor telemetry to delete.
        """
        if await self._store.remove(agent_id):
            self._forget(agent_id)
            await self._keyring.passed_on()
        elif not (purge and await self._telemetry.has(agent_id)):
            raise NotFound(f"there is no agent {agent_id}")
        if purge:
            await self._telemetry.purge(agent_id)
            self._ledger.forget(agent_id)

    async def heartbeat(self, agent_id: str) -> None:
        """An agent says by REST that it is there."""
        self._presence.heard(agent_id, self._clock.now())

    def _forget(self, agent_id: str) -> None:
        self._keyring.drop(agent_id)
        self._presence.drop(agent_id)
        self._downlink.end_sessions(agent_id)
        self._configs.clear(agent_id)
        self._live.clear(agent_id)
        self._downlink.emit(up(agent_id, Kind.STATUS), b"", retain=True)

    def _make_key(self, wish: Registration) -> tuple[AgentKey, Credentials]:
        if wish.public_key is not None:
            return self._make_ed25519(wish, wish.public_key)
        secret = wish.secret if wish.secret is not None else signing.new_secret()
        self._check_secret(secret)
        token = signing.token_of(secret)
        key = AgentKey(wish.id, Algorithm.HMAC_SHA256, secret, None, signing.hash_token(token))
        return key, Credentials(token, key.algorithm, secret=secret)

    def _make_ed25519(self, wish: Registration, public_key: str) -> tuple[AgentKey, Credentials]:
        if wish.secret is not None:
            raise Invalid("an agent has a secret or a public key", {"secret": "not beside a publicKey"})
        try:
            raw = signing.read_public_key(public_key)
        except (ValueError, binascii.Error) as problem:
            raise Invalid(
                "bad public key", {"publicKey": f"standard base64 of 32 bytes: {problem}"}
            ) from problem
        token = signing.new_token()
        key = AgentKey(wish.id, Algorithm.ED25519, None, raw, signing.hash_token(token), token)
        return key, Credentials(token, key.algorithm, server_public_key=self._downward.public_key)

    def _check_secret(self, secret: str) -> None:
        if not signing.SECRET_MIN_LENGTH <= len(secret) <= MAX_SECRET_LENGTH:
            bounds = f"{signing.SECRET_MIN_LENGTH} to {MAX_SECRET_LENGTH} characters"
            raise Invalid("bad secret", {"secret": bounds})
        if self._keyring.knows_secret(secret):
            raise Conflict("this secret is another agent's")
