"""What the handlers are given."""

from __future__ import annotations

from typing import Self

import msgspec
from aiohttp import web

from pingup.clock import Clock
from pingup.model import Principal
from pingup.services.admission import Admission
from pingup.services.agents import Agents
from pingup.services.commands import Commands
from pingup.services.composition import Services
from pingup.services.configs import Configs
from pingup.services.health import HealthCheck
from pingup.services.history import History
from pingup.services.ingest import Ingest
from pingup.services.keyring import Keyring
from pingup.services.tokens import Tokens
from pingup.settings import Settings


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The services behind REST.

    `unsigned_results` also takes command results without a signature. With `internal_token` a broker outside
    may ask who comes in.
    """

    clock: Clock
    keyring: Keyring
    admission: Admission
    ingest: Ingest
    agents: Agents
    commands: Commands
    configs: Configs
    history: History
    tokens: Tokens
    health: HealthCheck
    unsigned_results: bool
    internal_token: str | None

    @classmethod
    def of(cls, settings: Settings, services: Services, health: HealthCheck, clock: Clock) -> Self:
        """What of a server's services the handlers need."""
        return cls(
            clock=clock,
            keyring=services.keyring,
            admission=services.admission,
            ingest=services.ingest,
            agents=services.agents,
            commands=services.commands,
            configs=services.configs,
            history=services.history,
            tokens=services.tokens,
            health=health,
            unsigned_results=settings.security.unsigned_results,
            internal_token=settings.internal.token,
        )


CONTEXT = web.AppKey("context", Context)
PRINCIPAL = web.RequestKey("principal", Principal)
