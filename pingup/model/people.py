"""Who somebody is: an agent, an operator with an API token, the server."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum, StrEnum

import msgspec


class Scope(IntEnum):
    """How far an API token reaches; a higher one includes the lower ones. `metrics` is `/metrics` alone."""

    METRICS = 0
    READ = 1
    COMMAND = 2
    ADMIN = 3


class ApiToken(msgspec.Struct, frozen=True, rename="camel"):
    """An API token as people see it; the token itself is shown once and kept as its SHA-256.

    With `tags` it reaches only agents that have one of them.
    """

    id: str
    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    tags: tuple[str, ...] = ()


class EnrolmentToken(msgspec.Struct, frozen=True, rename="camel"):
    """What devices enrol themselves with: `uses` in all, `used` so far; they get its `tags`."""

    id: str
    name: str
    tags: tuple[str, ...]
    uses: int
    used: int
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None


class Role(StrEnum):
    """Who somebody is to the broker and to REST."""

    AGENT = "agent"
    OPERATOR = "operator"
    SERVER = "server"


class Principal(msgspec.Struct, frozen=True):
    """Somebody who has proved who they are: an agent by its id, an operator by a token's id and scope.

    The server is one to brokers outside only; its id is its user name there. An operator with `tags` reaches
    only agents that have one of them.
    """

    role: Role
    id: str
    scope: Scope = Scope.READ
    expires_at: datetime | None = None
    tags: tuple[str, ...] = ()
