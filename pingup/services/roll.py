"""Everybody who should have an account at a broker outside, with the password where we know it."""

from __future__ import annotations

from collections.abc import Iterable

from pingup import signing
from pingup.access import username_of
from pingup.model import Account, AgentKey, Principal, Role
from pingup.services.admission import ServerAccount
from pingup.services.keyring import Keyring
from pingup.signing import Fingerprints


class Roll:
    """The accounts that there should be now: the server's, one for each API token, one for each agent.

    Agents' passwords can be made again at any time. An API token's is its text, which is known when it is
    made, and nowhere afterwards; it is held until the broker has it.
    """

    def __init__(
        self,
        keyring: Keyring,
        fingerprints: Fingerprints,
        *,
        server: ServerAccount | None,
        texts: Iterable[str] = (),
    ) -> None:
        """
        Args:
            keyring: who is who.
            fingerprints: mark passwords.
            server: the server's own account; None to leave it to others.
            texts: API tokens whose texts stand somewhere, as the first one's does.
        """
        self._keyring = keyring
        self._fingerprints = fingerprints
        self._server = server
        self._lasting = {signing.hash_token(text): text for text in texts}
        self._fresh: dict[bytes, str] = {}

    def all(self) -> list[Account]:
        """Everybody's account."""
        server = [] if self._server is None else [self._of_server(self._server)]
        operators = [self._of_operator(one, shown) for one, shown in self._keyring.operators()]
        return [*server, *operators, *(self._of_agent(key) for key in self._keyring.agent_keys())]

    def of(self, principal: Principal) -> Account | None:
        """The account of this agent or API token, None if it should have none."""
        if principal.role is Role.AGENT:
            key = self._keyring.key_of(principal.id)
            return None if key is None else self._of_agent(key)
        found = (shown for one, shown in self._keyring.operators() if one.id == principal.id)
        shown = next(found, None)
        return None if shown is None else self._of_operator(principal, shown)

    def learn(self, text: str) -> None:
        """Hold a new API token's text."""
        self._fresh[signing.hash_token(text)] = text
        # Not those of tokens that were revoked meanwhile.
        self._fresh = {shown: self._fresh[shown] for _, shown in self._held()}

    def forget(self, account: Account) -> None:
        """The broker has this account: its text is needed no more."""
        if account.password is not None:
            self._fresh.pop(signing.hash_token(account.password), None)

    def waiting(self) -> list[str]:
        """User names of the API tokens whose texts are held."""
        return [username_of(one) for one, _ in self._held()]

    def _held(self) -> list[tuple[Principal, bytes]]:
        return [(one, shown) for one, shown in self._keyring.operators() if shown in self._fresh]

    def _of_server(self, server: ServerAccount) -> Account:
        return self._account(server.principal, signing.hash_token(server.password), server.password)

    def _of_operator(self, principal: Principal, shown: bytes) -> Account:
        return self._account(principal, shown, self._lasting.get(shown) or self._fresh.get(shown))

    def _of_agent(self, key: AgentKey) -> Account:
        password = key.token if key.secret is None else signing.token_of(key.secret)
        return self._account(Principal(Role.AGENT, key.agent_id), key.token_hash, password)

    def _account(self, principal: Principal, shown: bytes, password: str | None) -> Account:
        return Account(username_of(principal), principal, self._fingerprints.of(shown), password)
