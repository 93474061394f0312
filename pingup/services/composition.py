"""All services of one server, put together over its stores and its broker."""

from __future__ import annotations

import msgspec

from pingup.clock import Clock
from pingup.crew import Crew
from pingup.ports import Downlink, Registry, TelemetryStore
from pingup.services.admission import Admission, server_account
from pingup.services.agents import Agents
from pingup.services.announcing import Announcer
from pingup.services.batching import Batcher
from pingup.services.commands import Commands
from pingup.services.configs import Configs
from pingup.services.downward import Downward
from pingup.services.history import History
from pingup.services.ingest import Ingest, Window
from pingup.services.keyring import Keyring
from pingup.services.ledger import Ledger
from pingup.services.live import Live
from pingup.services.presence import Presence
from pingup.services.receipts import Receipts
from pingup.services.rejects import Rejects
from pingup.services.retention import Retention
from pingup.services.sorting import Sorting
from pingup.services.timekeeping import Timekeeper
from pingup.services.tokens import Tokens
from pingup.settings import Settings
from pingup.signing import Signer

_ALL = 2**31


class Services(msgspec.Struct, frozen=True):
    """The services of one server."""

    keyring: Keyring
    admission: Admission
    rejects: Rejects
    batcher: Batcher
    ingest: Ingest
    live: Live
    ledger: Ledger
    receipts: Receipts
    presence: Presence
    agents: Agents
    tokens: Tokens
    commands: Commands
    configs: Configs
    history: History
    retention: Retention
    sorting: Sorting
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
    live = Live(clock, downlink, settings.mqtt.live)
    rejects = Rejects(clock, downlink)
    downward = Downward(signer)
    commands = Commands(registry.commands, keyring, downward, downlink, live, clock)
    configs = Configs(registry.configs, keyring, downward, downlink, clock)
    offline_after = settings.presence.offline_after
    presence = Presence(registry.agents, live, clock, offline_after=offline_after, on_birth=commands.born)
    ledger = Ledger()
    receipts = Receipts(ledger, keyring, downward, downlink, clock)
    agents = Agents(
        registry.agents, telemetry, ledger, keyring, presence, configs, live, downward, downlink, clock
    )
    timekeeper = Timekeeper(clock, security.max_future)
    announcer = Announcer(timekeeper, presence, receipts, live, rejects, keyring)
    batcher = Batcher(telemetry, announcer.announce)
    ingest = Ingest(
        keyring=keyring,
        batcher=batcher,
        presence=presence,
        commands=commands,
        configs=configs,
        rejects=rejects,
        window=Window(security.max_past, security.max_future),
        timekeeper=timekeeper,
        crew=crew,
    )
    return Services(
        keyring=keyring,
        admission=Admission(keyring, server_account(settings.mqtt)),
        rejects=rejects,
        batcher=batcher,
        ingest=ingest,
        live=live,
        ledger=ledger,
        receipts=receipts,
        presence=presence,
        agents=agents,
        tokens=Tokens(registry.tokens, keyring, downlink, clock),
        commands=commands,
        configs=configs,
        history=History(telemetry, ledger, agents, keyring),
        retention=Retention(
            telemetry, ledger, clock, samples=settings.retention.metrics, scans=settings.retention.discovery
        ),
        sorting=Sorting(telemetry, clock),
        timekeeper=timekeeper,
    )


async def load(services: Services, telemetry: TelemetryStore, registry: Registry) -> None:
    """Bring what the stores know into memory: keys, tokens, streams, presence, how late it was."""
    for key in await registry.agents.keys():
        services.keyring.put(key)
    for token, token_hash in await registry.tokens.all():
        services.keyring.admit(token, token_hash)
    everybody = await registry.agents.page(status=None, tag=None, query=None, limit=_ALL, after=None)
    services.presence.load(everybody)
    await services.configs.load()
    services.ledger.load(await telemetry.runs())
    newest = await telemetry.newest()
    if newest is not None:
        services.timekeeper.witness(newest)
