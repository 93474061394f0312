"""API tokens for people and tools: made, listed, revoked; shown once, kept as their SHA-256."""

from __future__ import annotations

import asyncio
import logging
import secrets
from datetime import datetime

from pingup import signing
from pingup.clock import Clock
from pingup.errors import Invalid, NotFound, Unavailable
from pingup.model import ApiToken, Scope
from pingup.ports import Downlink, TokenStore
from pingup.services.keyring import Keyring

log = logging.getLogger(__name__)

PREFIX = "pgp_"
_FLUSH_EVERY = 10.0  # seconds


class Tokens:
    """Keeps API tokens in the registry and in the keyring."""

    def __init__(self, store: TokenStore, keyring: Keyring, downlink: Downlink, clock: Clock) -> None:
        self._store = store
        self._keyring = keyring
        self._downlink = downlink
        self._clock = clock

    async def create(
        self, name: str, scope: Scope, expires_at: datetime | None = None
    ) -> tuple[ApiToken, str]:
        """Make a token; the second of the pair is what its owner shows, and is never seen again.

        Raises:
            Invalid: it would have expired already.
        """
        now = self._clock.now()
        if expires_at is not None and expires_at <= now:
            raise Invalid("bad expiry", {"expiresAt": "must lie in the future"})
        text = PREFIX + signing.new_token()
        token = ApiToken(f"tok_{secrets.token_hex(8)}", name, scope, now, expires_at, None)
        token_hash = signing.hash_token(text)
        await self._store.add(token, token_hash)
        self._keyring.admit(token, token_hash, text)
        await self._keyring.passed_on()
        return token, text

    async def all(self) -> list[ApiToken]:
        """Every token, as people see it."""
        await self.flush()
        return [token for token, _ in await self._store.all()]

    async def remove(self, token_id: str) -> None:
        """Revoke a token and end its sessions on the broker.

        Raises:
            NotFound: there is no such token.
        """
        if not await self._store.remove(token_id):
            raise NotFound(f"there is no token {token_id}")
        self._keyring.expel(token_id)
        self._downlink.end_sessions(token_id)
        await self._keyring.passed_on()

    async def flush(self) -> None:
        """Write when tokens were last used."""
        await self._store.used(self._keyring.take_used())

    async def run(self) -> None:
        """Write when tokens were last used, now and then, until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_EVERY)
            try:
                await self.flush()
            except Unavailable as problem:
                log.warning("the use of tokens was not written: %s", problem)
