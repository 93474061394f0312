"""Who may speak to the server: every agent's key and every API token, in memory, so that no message waits
for a database to be verified. The registry is the truth; whoever changes it there changes it here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from pingup.access import OPERATOR_USER
from pingup.clock import Clock
from pingup.model import AgentKey, ApiToken, Principal, Role, Scope
from pingup.signing import hash_token


class Watcher(Protocol):
    """Somebody who passes on who may speak, to a broker outside."""

    def note(self, principal: Principal, text: str | None) -> None:
        """This one's key or token came, changed or went; `text` is a new API token's, told this once."""
        ...

    async def passed_on(self) -> None:
        """Wait until what was noted counts there too; for a short while only."""
        ...


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
        self._watcher: Watcher = _Nobody()

    def watch(self, watcher: Watcher) -> None:
        """Have somebody told from now on of every key and token that comes, changes or goes."""
        self._watcher = watcher

    async def passed_on(self) -> None:
        """Wait until a broker outside knows of what has changed here, if there is one that has to.

        It is not waited for long, nor for one that is away: what it lacks is brought later.
        """
        await self._watcher.passed_on()

    def put(self, key: AgentKey) -> None:
        """Know an agent's key from now on, in place of the one that was known."""
        self._forget(key.agent_id)
        self._keys[key.agent_id] = key
        self._agents_by_token[key.token_hash] = key.agent_id
        if key.secret is not None:
            self._agents_by_secret[hash_token(key.secret)] = key.agent_id
        self._watcher.note(Principal(Role.AGENT, key.agent_id), None)

    def drop(self, agent_id: str) -> None:
        """Forget an agent's key: nothing that it signs or shows counts any more."""
        self._forget(agent_id)
        self._watcher.note(Principal(Role.AGENT, agent_id), None)

    def _forget(self, agent_id: str) -> None:
        key = self._keys.pop(agent_id, None)
        if key is not None:
            self._agents_by_token.pop(key.token_hash, None)
            if key.secret is not None:
                self._agents_by_secret.pop(hash_token(key.secret), None)

    def admit(self, token: ApiToken, token_hash: bytes, text: str | None = None) -> None:
        """Know an API token from now on; `text` is passed on to who watches, and not kept."""
        principal = Principal(Role.OPERATOR, token.id, token.scope, token.expires_at, token.tags)
        self._operators[token_hash] = principal
        self._watcher.note(principal, text)

    def expel(self, token_id: str) -> None:
        """Forget an API token."""
        self._operators = {key: one for key, one in self._operators.items() if one.id != token_id}
        self._used.pop(token_id, None)
        self._watcher.note(Principal(Role.OPERATOR, token_id), None)

    def agent_keys(self) -> Iterable[AgentKey]:
        """Every registered agent's key."""
        return self._keys.values()

    def operators(self) -> Iterable[tuple[Principal, bytes]]:
        """Everybody with an API token that is valid now, and its SHA-256."""
        return ((one, shown) for shown, one in self._operators.items() if self._is_valid(one))

    def expiries(self) -> Iterable[tuple[Principal, datetime]]:
        """Everybody with an API token that has an end, also a past one, and when."""
        return ((one, one.expires_at) for one in self._operators.values() if one.expires_at is not None)

    def key_of(self, agent_id: str) -> AgentKey | None:
        """The key of a registered agent."""
        return self._keys.get(agent_id)

    def operator(self, token_id: str) -> Principal | None:
        """Who has the API token with this id, if it is valid now."""
        found = next((one for one in self._operators.values() if one.id == token_id), None)
        return found if found is not None and self._is_valid(found) else None

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
        if principal is None or not self._is_valid(principal):
            return None
        self._used[principal.id] = self._clock.now()
        return principal

    def _is_valid(self, principal: Principal) -> bool:
        return principal.expires_at is None or principal.expires_at > self._clock.now()

    def _agent(self, shown: bytes) -> Principal | None:
        agent_id = self._agents_by_token.get(shown)
        if agent_id is None and self._secret_as_bearer:
            agent_id = self._agents_by_secret.get(shown)
        return Principal(Role.AGENT, agent_id, Scope.READ) if agent_id is not None else None

    def take_used(self) -> Iterable[tuple[str, datetime]]:
        """API tokens that were used since the last call, and when."""
        used, self._used = self._used, {}
        return used.items()


class _Nobody:
    """Where the broker asks the keyring itself."""

    def note(self, principal: Principal, text: str | None) -> None:
        pass

    async def passed_on(self) -> None:
        pass
