"""The composition root: builds every part of the server from its settings, and owns the order of closing.

  brokers ──┐                  ┌── http
            ▼                  ▼
   services: ingest, agents, commands …
            │                  │
storage.duckdb            storage.sqlite
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from pingup import __version__, codec, signing
from pingup.brokers.edge import Broker, Edge
from pingup.clock import Clock, SystemClock
from pingup.crew import Crew
from pingup.data_dir import DataDirectory, open_data_dir, read_admin_token, write_private
from pingup.errors import Unavailable
from pingup.model import ApiToken, Scope
from pingup.ports import Registry
from pingup.provisioning import accounts_of, admit_environment_token
from pingup.services.accounts import Accounts
from pingup.services.composition import Services, compose, load
from pingup.services.health import Check, Component, HealthCheck, Status
from pingup.services.keyring import Keyring
from pingup.services.tokens import PREFIX
from pingup.settings import MqttSettings, Settings
from pingup.signing import Signer, Vault
from pingup.storage import duckdb, sqlite

if TYPE_CHECKING:
    from pingup.http.server import Server

log = logging.getLogger(__name__)

_SERVER_SEED = "server.ed25519"
_ADMIN_MADE = "admin.made"


class Pingup(msgspec.Struct, frozen=True):
    """A running server, for whoever started it.

    `new_admin_token` is there on the first start only, `accounts` when it brings them to a broker elsewhere.
    """

    http_url: str
    mqtt_url: str
    new_admin_token: str | None
    services: Services
    accounts: Accounts | None
    crew: Crew


@asynccontextmanager
async def serve(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Pingup]:
    """Run the server for as long as the context lasts; nothing acknowledged is lost at its end.

    Raises:
        Unusable: it cannot start; the text says why and what to do.
    """
    clock = clock or SystemClock()
    data = open_data_dir(settings.data_dir)
    async with (
        _telemetry(data.telemetry, settings) as telemetry,
        sqlite.SQLiteRegistry.open(data.registry, Vault(data.master_key)) as registry,
        Crew.open() as crew,
    ):
        keyring = Keyring(clock, secret_as_bearer=settings.security.secret_as_bearer)
        broker = _broker(settings.mqtt, keyring, crew, clock)
        signer = Signer(await _server_seed(registry))
        services = compose(settings, clock, keyring, telemetry, registry, broker, signer, crew)
        new_token = await _first_admin_token(data, registry, clock)
        await load(services, telemetry, registry)
        admit_environment_token(settings, keyring, clock)
        accounts = accounts_of(settings, data, keyring, clock)
        health = HealthCheck(clock, _checks(services, telemetry, registry, broker, accounts))
        async with (
            _working(services, accounts, crew),
            broker.open(_edge(services, accounts, clock)),
            _rest(settings, services, health, clock) as server,
        ):
            yield Pingup(server.url, broker.url, new_token, services, accounts, crew)


@asynccontextmanager
async def _telemetry(path: Path, settings: Settings) -> AsyncIterator[duckdb.DuckDBTelemetry]:
    """The telemetry store. Opening it takes a core for 30 ms, and another one imports the edges meanwhile."""
    journaled_below = duckdb.JOURNALED_BELOW if settings.storage.journal else 0
    opening = asyncio.create_task(duckdb.DuckDBTelemetry.open(path, journaled_below=journaled_below))
    await asyncio.sleep(0)  # it begins, in a thread of its own
    _import_edges(settings.mqtt)
    async with await opening as telemetry:
        yield telemetry


def _import_edges(settings: MqttSettings) -> None:
    """REST, and the broker in this process or the link to another; of the two only one is imported."""
    import_module("pingup.http.server")
    import_module("pingup.brokers.embedded" if settings.broker is None else "pingup.brokers.external")


@asynccontextmanager
async def _working(services: Services, accounts: Accounts | None, crew: Crew) -> AsyncIterator[None]:
    """Run what works in the background. At the end the edges are closed already: what they took is stored."""
    committing = crew.create_task(services.batcher.run(), name="batcher")
    for name, work in (
        ("commands", services.commands.run()),
        ("configs", services.configs.run()),
        ("live", services.live.run()),
        ("receipts", services.receipts.run()),
        ("presence", services.presence.run()),
        ("tokens", services.tokens.run()),
        ("retention", services.retention.run()),
        ("sorting", services.sorting.run()),
    ):
        crew.create_task(work, name=name)
    if accounts is not None:
        crew.create_task(accounts.run(), name="accounts")
    try:
        yield
    finally:
        await services.ingest.drain()
        services.batcher.close()
        await asyncio.wait([committing])
        await _flush(services)


async def _flush(services: Services) -> None:
    """Write what is in memory only. When the registry is down that is no reason to end otherwise."""
    try:
        await services.presence.flush()
        await services.tokens.flush()
    except Unavailable as problem:
        log.warning("when agents and tokens were last seen is not written: %s", problem)


# --- the edges ------------------------------------------------------------------------------------


def _broker(settings: MqttSettings, keyring: Keyring, crew: Crew, clock: Clock) -> Broker:
    """The broker in this process, or the link to another."""
    if settings.broker is None:
        from pingup.brokers.embedded import Embedded

        return Embedded(host=settings.host, port=settings.port, keyring=keyring, clock=clock)
    from pingup.brokers.external import External

    return External.of(settings, settings.broker, crew, clock)


def _rest(
    settings: Settings, services: Services, health: HealthCheck, clock: Clock
) -> AbstractAsyncContextManager[Server]:
    """REST; its packages are imported by now."""
    from pingup.http.context import Context
    from pingup.http.server import Server

    return Server.open(Context.of(settings, services, health, clock), settings.http)


def _edge(services: Services, accounts: Accounts | None, clock: Clock) -> Edge:
    """The server, as its broker sees it."""

    def connected() -> None:
        services.commands.reachable()
        if accounts is not None:
            accounts.compare()
        # Also when our session was kept: a broker that crashes may forget what was retained.
        services.configs.forgotten()
        services.presence.show()

    usual = Edge(
        ingest=services.ingest,
        rejects=services.rejects,
        on_listening=services.commands.listening,
        on_connected=connected,
        status=lambda status: _status(status, clock.now()),
    )
    return usual if accounts is None else replace(usual, may_connect=accounts.may_connect)


def _status(status: str, at: datetime) -> bytes:
    return codec.encode({"status": status, "version": __version__, "at": at})


# --- keys and tokens -------------------------------------------------------------------------------


async def _server_seed(registry: Registry) -> bytes:
    """The seed of the server's own Ed25519 key, made at the first start."""
    seed = await registry.settings.read(_SERVER_SEED)
    if seed is None:
        seed = signing.new_seed()
        await registry.settings.write(_SERVER_SEED, seed)
    return seed


async def _first_admin_token(data: DataDirectory, registry: Registry, clock: Clock) -> str | None:
    """Make the first admin token, once in a directory's life; a crash in between heals at the next start."""
    if await registry.settings.read(_ADMIN_MADE) is not None:
        return None
    text = read_admin_token(data)
    if text is None:
        text = PREFIX + signing.new_token()
        write_private(data.admin_token, text)
    token = ApiToken("tok_admin", "first start", Scope.ADMIN, clock.now(), None, None)
    if not await registry.tokens.all():
        await registry.tokens.add(token, signing.hash_token(text))
    await registry.settings.write(_ADMIN_MADE, b"yes")
    return text


# --- health ----------------------------------------------------------------------------------------


def _checks(
    services: Services,
    telemetry: duckdb.DuckDBTelemetry,
    registry: Registry,
    broker: Broker,
    accounts: Accounts | None,
) -> dict[str, Check]:
    async def sqlite_health() -> Component:
        await registry.check()
        return Component(Status.HEALTHY)

    async def duckdb_health() -> Component:
        if services.batcher.problem is not None:
            return Component(Status.UNHEALTHY, services.batcher.problem)
        await telemetry.check()
        if telemetry.quarantined is not None:
            lost = (
                "the end of the last crash's log could not be used and is kept in "
                f"{telemetry.quarantined}: a commit that was cut short, which nobody was told of, or damage"
            )
            return Component(Status.DEGRADED, lost)
        return Component(Status.HEALTHY)

    async def mqtt_health() -> Component:
        if broker.problem is None:
            return Component(Status.HEALTHY)
        return Component(Status.UNHEALTHY, broker.problem)

    async def accounts_health() -> Component | None:
        if accounts is None:
            return None
        problem = accounts.problem
        return Component(Status.HEALTHY if problem is None else Status.DEGRADED, problem)

    async def clock_health() -> Component | None:
        problem = services.timekeeper.problem
        return None if problem is None else Component(Status.DEGRADED, problem)

    return {
        "sqlite": sqlite_health,
        "duckdb": duckdb_health,
        "mqtt": mqtt_health,
        "accounts": accounts_health,
        "clock": clock_health,
    }


def migrate(settings: Settings) -> list[str]:
    """Bring the databases in the data directory to this version; the names of what was applied.

    Raises:
        Unusable: a database can't be opened, or the server has it open.
    """
    data = open_data_dir(settings.data_dir)
    applied = [*duckdb.migrate(data.telemetry), *sqlite.migrate(data.registry)]
    if duckdb.take_journal(data.telemetry):
        applied.append("what the last server has left in the journal")
    return applied
