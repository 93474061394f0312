"""The composition root: builds every part of the server from its settings, and owns the order of closing.

brokers.embedded ──┐                  ┌── http
                   ▼                  ▼
          services: ingest, agents, commands …
                   │                  │
       storage.duckdb            storage.sqlite
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import msgspec

from pingup import __version__, codec, signing
from pingup.brokers.embedded import Embedded
from pingup.clock import Clock, SystemClock
from pingup.crew import Crew
from pingup.data_dir import DataDirectory, open_data_dir, read_admin_token, write_private
from pingup.errors import Unavailable
from pingup.http.context import Context
from pingup.http.server import Server
from pingup.model import ApiToken, Scope
from pingup.ports import Registry
from pingup.services.composition import Services, compose, load
from pingup.services.health import Check, Component, HealthCheck, Status
from pingup.services.keyring import Keyring
from pingup.services.tokens import PREFIX
from pingup.settings import Settings
from pingup.signing import Signer, Vault
from pingup.storage import duckdb, sqlite
from pingup.topics import SYS_STATUS

log = logging.getLogger(__name__)

_SERVER_SEED = "server.ed25519"
_ADMIN_MADE = "admin.made"


class Pingup(msgspec.Struct, frozen=True):
    """A running server, for whoever started it. `new_admin_token` is there on the first start only."""

    http_url: str
    mqtt_url: str
    new_admin_token: str | None
    services: Services
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
        await duckdb.DuckDBTelemetry.open(data.telemetry) as telemetry,
        sqlite.SQLiteRegistry.open(data.registry, Vault(data.master_key)) as registry,
        Crew.open() as crew,
    ):
        keyring = Keyring(clock, secret_as_bearer=settings.security.secret_as_bearer)
        broker = Embedded(host=settings.mqtt.host, port=settings.mqtt.port, keyring=keyring, clock=clock)
        signer = Signer(await _server_seed(registry))
        services = compose(settings, clock, keyring, telemetry, registry, broker, signer, crew)
        new_token = await _first_admin_token(data, registry, clock)
        await load(services, telemetry, registry)
        _admit_environment_token(settings, services, clock)
        health = HealthCheck(clock, _checks(services, telemetry, registry, broker))
        async with (
            _working(services, crew),
            broker.open(
                ingest=services.ingest,
                rejects=services.rejects,
                on_listening=services.commands.listening,
            ),
            _announced(broker, clock),
            Server.open(Context.of(settings, services, health, clock), settings.http) as server,
        ):
            yield Pingup(server.url, broker.url, new_token, services, crew)


@asynccontextmanager
async def _working(services: Services, crew: Crew) -> AsyncIterator[None]:
    """Run what works in the background. At the end the edges are closed already: what they took is stored."""
    committing = crew.create_task(services.batcher.run(), name="batcher")
    for name, work in (
        ("commands", services.commands.run()),
        ("configs", services.configs.run()),
        ("live", services.live.run()),
        ("presence", services.presence.run()),
        ("tokens", services.tokens.run()),
        ("retention", services.retention.run()),
    ):
        crew.create_task(work, name=name)
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


@asynccontextmanager
async def _announced(broker: Embedded, clock: Clock) -> AsyncIterator[None]:
    """Say on the broker that the server is there, and when it goes."""
    broker.emit(SYS_STATUS, _status("online", clock.now()), retain=True)
    try:
        yield
    finally:
        broker.emit(SYS_STATUS, _status("offline", clock.now()), retain=True)


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


def _admit_environment_token(settings: Settings, services: Services, clock: Clock) -> None:
    """`PINGUP_ADMIN_TOKEN` counts for as long as it is set, and is stored nowhere."""
    if settings.admin_token is not None:
        token = ApiToken("environment", "PINGUP_ADMIN_TOKEN", Scope.ADMIN, clock.now(), None, None)
        services.keyring.admit(token, signing.hash_token(settings.admin_token))


# --- health ----------------------------------------------------------------------------------------


def _checks(
    services: Services, telemetry: duckdb.DuckDBTelemetry, registry: Registry, broker: Embedded
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
                f"what was not yet in the database at the last crash is set aside in {telemetry.quarantined}"
            )
            return Component(Status.DEGRADED, lost)
        return Component(Status.HEALTHY)

    async def mqtt_health() -> Component:
        if broker.is_open:
            return Component(Status.HEALTHY)
        return Component(Status.UNHEALTHY, "the embedded broker does not listen")

    async def clock_health() -> Component | None:
        problem = services.timekeeper.problem
        return None if problem is None else Component(Status.DEGRADED, problem)

    return {"sqlite": sqlite_health, "duckdb": duckdb_health, "mqtt": mqtt_health, "clock": clock_health}


def migrate(settings: Settings) -> list[str]:
    """Bring the databases in the data directory to this version; the names of what was applied.

    Raises:
        Unusable: a database can't be opened, or the server has it open.
    """
    data = open_data_dir(settings.data_dir)
    return [*duckdb.migrate(data.telemetry), *sqlite.migrate(data.registry)]
