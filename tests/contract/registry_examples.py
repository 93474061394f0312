"""Agents, keys, commands and tokens for the tests of the registry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from pingup.model import (
    Agent,
    AgentKey,
    Algorithm,
    ApiToken,
    Command,
    CommandStatus,
    Presence,
    Scope,
)
from pingup.signing import hash_token, token_of

NOW = datetime(2026, 2, 25, 10, 0, 0, 123456, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def secret_of(agent_id: str) -> str:
    return f"the-secret-of-{agent_id}-is-long-enough-to-be-one"


def agent(agent_id: str, *, name: str | None = None, tags: tuple[str, ...] = ()) -> Agent:
    return Agent(agent_id, name, Presence.OFFLINE, None, {}, tags, Algorithm.HMAC_SHA256, NOW)


def key(agent_id: str) -> AgentKey:
    secret = secret_of(agent_id)
    return AgentKey(agent_id, Algorithm.HMAC_SHA256, secret, None, hash_token(token_of(secret)))


def command(
    command_id: str,
    agent_id: str = "a1",
    *,
    created_at: datetime = NOW,
    lives: float = 3600,
    status: CommandStatus = CommandStatus.PENDING,
) -> Command:
    return Command(
        command_id=command_id,
        agent_id=agent_id,
        action="ping",
        params={"count": 3},
        status=status,
        result=msgspec.Raw(b"null"),
        created_at=created_at,
        expires_at=created_at + timedelta(seconds=lives),
        signed='{"commandId":"…"}',
        signature="c2lnbmF0dXJl",
    )


def token(token_id: str, *, expires_at: datetime | None = None) -> ApiToken:
    return ApiToken(token_id, f"name of {token_id}", Scope.COMMAND, NOW, expires_at, None)
