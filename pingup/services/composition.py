"""All services of one server, put together over its stores and its broker."""

from __future__ import annotations

import msgspec

from pingup.clock import Clock
from pingup.crew import Crew
from pingup.ports import Downlink, Registry, TelemetryStore
from pingup.services.agents import Agents
from pingup.services.batching import Batcher
from pingup.services.commands import Commands
from pingup.services.configs import Configs
from pingup.services.downward import Downward
from pingup.services.history import History
from pingup.services.ingest import Ingest, Window
from pingup.services.keyring import Keyring
from pingup.services.live import Live
from pingup.services.presence import Presence
from pingup.services.rejects import Rejects
from pingup.services.retention import Retention
from pingup.services.timekeeping import Timekeeper
from pingup.services.tokens import Tokens
from pingup.settings import Settings
from pingup.signing import Signer

_ALL = 2**31


class Services(msgspec.Struct, frozen=True):
    """The services of one server."""

    keyring: Keyring
    rejects: Rejects
    batcher: Batcher
    ingest: Ingest
    live: Live
    presence: Presence
    agents: Agents
    tokens: Tokens
    commands: Commands
    configs: Configs
    history: History
    retention: Retention
    timekeeper: Timekeeper


def compose(
    settings: Settings,
    clock: Clock,
    keyring: Keyring,
    telemetry: TelemetryStore,
    registry: Registry,
    downlink: Downlink,
    signer: Signer,
    crew: Crew,
) -> Services:
    """Build every service; nothing runs yet. `signer` holds the server's own Ed25519 key."""
    security = settings.security
    live = Live(clock, downlink)
    rejects = Rejects(clock, downlink)
    downward = Downward(signer)
    commands = Commands(registry.commands, keyring, downward, downlink, live, clock)
    configs = Configs(registry.configs, keyring, downward, downlink, clock)
    presence = Presence(
        registry.agents,
        live,
        clock,
        offline_after=settings.presence.offline_after,
        on_birth=commands.born,
    )
    agents = Agents(registry.agents, telemetry, keyring, presence, configs, live, downward, downlink, clock)
    batcher = Batcher(telemetry)
    timekeeper = Timekeeper(clock, security.max_future)
    ingest = Ingest(
        keyring=keyring,
        batcher=batcher,
        presence=presence,
        commands=commands,
        configs=configs,
        live=live,
        rejects=rejects,
        window=Window(security.max_past, security.max_future),
        timekeeper=timekeeper,
        crew=crew,
    )
    return Services(
        keyring=keyring,
        rejects=rejects,
        batcher=batcher,
        ingest=ingest,
        live=live,
        presence=presence,
        agents=agents,
        tokens=Tokens(registry.tokens, keyring, downlink, clock),
        commands=commands,
        configs=configs,
        history=History(telemetry, agents, keyring),
        retention=Retention(
            telemetry, clock, samples=settings.retention.metrics, scans=settings.retention.discovery
        ),
        timekeeper=timekeeper,
    )


async def load(services: Services, telemetry: TelemetryStore, registry: Registry) -> None:
    """Bring what the stores know into memory: keys, tokens, where every agent stood, how late it was."""
    for key in await registry.agents.keys():
        services.keyring.put(key)
    for token, token_hash in await registry.tokens.all():
        services.keyring.admit(token, token_hash)
    everybody = await registry.agents.page(status=None, tag=None, query=None, limit=_ALL, after=None)
    services.presence.load(everybody)
    await services.configs.load()
    newest = await telemetry.newest()
    if newest is not None:
        services.timekeeper.witness(newest)
