"""Who the agent is: it signs what goes up and verifies what comes down."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Protocol

from pingup.agent.settings import AgentSettings
from pingup.errors import Unusable
from pingup.model import AgentKey, Algorithm
from pingup.signing import Signer, attach, read_public_key, sign, token_of, verify
from pingup.sources import USAGE

_SEED_SIZE = 32


class _Sign(Protocol):
    def __call__(self, body: bytes) -> bytes: ...


class Identity:
    """An agent's id, the token that it shows to the broker, and its keys."""

    def __init__(self, agent_id: str, token: str, signer: _Sign, server_key: AgentKey) -> None:
        self.agent_id = agent_id
        self.token = token
        self._sign = signer
        self._server_key = server_key

    def sign(self, body: bytes) -> bytes:
        """The signed message of one serialised JSON object."""
        return self._sign(body)

    def verify(self, message: bytes) -> None:
        """Return if the server signed this message for this agent.

        Raises:
            Rejected: `no_signature` or `bad_signature`.
        """
        verify(message, self._server_key)


def identity_of(settings: AgentSettings) -> Identity:
    """Read the agent's keys, from files where the settings name some.

    Raises:
        Unusable: a key is missing or unreadable (exit code 2); the text never shows one.
    """
    secret = _read("secret", settings.secret, settings.secret_file)
    seed = _read("seed", settings.seed, settings.seed_file)
    if secret is not None and seed is None:
        return _hmac_identity(settings.id, secret)
    if seed is not None and secret is None:
        token = _read("token", settings.token, settings.token_file)
        return _ed25519_identity(settings.id, seed, token, settings.server_public_key)
    raise Unusable(
        "an agent needs either its secret (--secret-file, PINGUP_AGENT_SECRET) or an Ed25519 seed"
        " (seed_file, PINGUP_AGENT_SEED)",
        USAGE,
    )


def _hmac_identity(agent_id: str, secret: str) -> Identity:
    def signer(body: bytes) -> bytes:
        return sign(body, secret)

    # The server signs for an hmac agent with the agent's own secret.
    key = AgentKey(agent_id, Algorithm.HMAC_SHA256, secret, None, b"")
    return Identity(agent_id, token_of(secret), signer, key)


def _ed25519_identity(agent_id: str, seed: str, token: str | None, server_public_key: str | None) -> Identity:
    if token is None or server_public_key is None:
        raise Unusable("an agent with an Ed25519 seed also needs its token and server_public_key", USAGE)
    try:
        raw_seed = base64.b64decode(seed, validate=True)
        public_key = read_public_key(server_public_key)
    except (binascii.Error, ValueError) as problem:
        raise Unusable(
            "seed and server_public_key are written in standard base64, 32 bytes each", USAGE
        ) from problem
    if len(raw_seed) != _SEED_SIZE:
        raise Unusable(f"an Ed25519 seed has {_SEED_SIZE} bytes, this one has {len(raw_seed)}", USAGE)
    own = Signer(raw_seed)

    def signer(body: bytes) -> bytes:
        return attach(body, own.signature(body))

    return Identity(agent_id, token, signer, AgentKey(agent_id, Algorithm.ED25519, None, public_key, b""))


def _read(name: str, value: str | None, file: Path | None) -> str | None:
    if file is not None:
        try:
            value = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise Unusable(f"cannot read the {name} file {file}: {problem}", USAGE) from problem
    if value is None:
        return None
    if not value.strip():
        raise Unusable(f"the {name} is empty", USAGE)
    return value.strip()
