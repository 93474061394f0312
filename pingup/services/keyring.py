"""Who may speak to the server: every agent's key and every API token, in memory, so that no message waits
for a database to be verified. The registry is the truth; whoever changes it there changes it here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pingup.clock import Clock
from pingup.model import AgentKey, ApiToken, Principal, Role, Scope
from pingup.signing import hash_token

OPERATOR_USER = "operator"


class Keyring:
    """Keys by agent, principals by the SHA-256 of what they show."""

    def __init__(self, clock: Clock, *, secret_as_bearer: bool = False) -> None:
        """`secret_as_bearer` also takes an agent's secret as its REST bearer, as the first agents send it."""
        self._clock = clock
        self._secret_as_bearer = secret_as_bearer
        self._keys: dict[str, AgentKey] = {}
        self._agents_by_token: dict[bytes, str] = {}
        self._agents_by_secret: dict[bytes, str] = {}
        self._operators: dict[bytes, Principal] = {}
        self._used: dict[str, datetime] = {}

    def put(self, key: AgentKey) -> None:
        """Know an agent's key from now on, in place of the one that was known."""
        self.drop(key.agent_id)
        self._keys[key.agent_id] = key
        self._agents_by_token[key.token_hash] = key.agent_id
        if key.secret is not None:
            self._agents_by_secret[hash_token(key.secret)] = key.agent_id

    def drop(self, agent_id: str) -> None:
        """Forget an agent's key: nothing that it signs or shows counts any more."""
        key = self._keys.pop(agent_id, None)
        if key is not None:
            self._agents_by_token.pop(key.token_hash, None)
            if key.secret is not None:
                self._agents_by_secret.pop(hash_token(key.secret), None)

    def admit(self, token: ApiToken, token_hash: bytes) -> None:
        """Know an API token from now on."""
        self._operators[token_hash] = Principal(Role.OPERATOR, token.id, token.scope, token.expires_at)

    def expel(self, token_id: str) -> None:
        """Forget an API token."""
        self._operators = {key: one for key, one in self._operators.items() if one.id != token_id}
        self._used.pop(token_id, None)

    def key_of(self, agent_id: str) -> AgentKey | None:
        """The key of a registered agent."""
        return self._keys.get(agent_id)

    def knows_secret(self, secret: str) -> bool:
        """Whether some agent already signs with this secret."""
        return hash_token(secret) in self._agents_by_secret

    def who_is(self, bearer: str) -> Principal | None:
        """Whose bearer token this is, if it is valid now."""
        shown = hash_token(bearer)
        return self._operator(shown) or self._agent(shown)

    def login(self, username: str, password: str) -> Principal | None:
        """Who logs in to the broker: an agent by id and token, a person as `operator` with an API token."""
        shown = hash_token(password)
        if username == OPERATOR_USER:
            return self._operator(shown)
        agent_id = self._agents_by_token.get(shown)
        return Principal(Role.AGENT, agent_id) if agent_id is not None and agent_id == username else None

    def _operator(self, shown: bytes) -> Principal | None:
        principal = self._operators.get(shown)
        if principal is None:
            return None
        now = self._clock.now()
        if principal.expires_at is not None and principal.expires_at <= now:
            return None
        self._used[principal.id] = now
        return principal

    def _agent(self, shown: bytes) -> Principal | None:
        agent_id = self._agents_by_token.get(shown)
        if agent_id is None and self._secret_as_bearer:
            agent_id = self._agents_by_secret.get(shown)
        return Principal(Role.AGENT, agent_id, Scope.READ) if agent_id is not None else None

    def take_used(self) -> Iterable[tuple[str, datetime]]:
        """API tokens that were used since the last call, and when."""
        used, self._used = self._used, {}
        return used.items()
