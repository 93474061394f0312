"""Who comes in to a broker outside that asks us, and what they may do there."""

from __future__ import annotations

import msgspec

from pingup import signing
from pingup.access import OPERATOR_USER, SERVER_CLIENT_ID, SERVER_USER, assign_client_id
from pingup.model import Principal, Role
from pingup.services.keyring import Keyring
from pingup.settings import MqttSettings

OPERATOR_PREFIX = f"{OPERATOR_USER}."


class ServerAccount(msgspec.Struct, frozen=True):
    """What the server itself logs in to the broker with."""

    username: str
    password: str
    client_id: str = SERVER_CLIENT_ID

    def __repr__(self) -> str:
        return f"ServerAccount(username={self.username!r}, password=…)"

    @property
    def principal(self) -> Principal:
        return Principal(Role.SERVER, self.username)


def server_account(settings: MqttSettings) -> ServerAccount | None:
    """The server's own account at a broker elsewhere, None without one that has a password."""
    broker = settings.broker
    if broker is None or broker.password is None:
        return None
    return ServerAccount(broker.username or SERVER_USER, broker.password, settings.client_id)


class Admission:
    """Users are agents by id, the server, and `operator.{tokenId}` for each API token."""

    def __init__(self, keyring: Keyring, server: ServerAccount | None) -> None:
        """`server` is None where the server has no account at a broker outside."""
        self._keyring = keyring
        self._server = server

    def log_in(self, username: str, password: str, client_id: str) -> Principal | None:
        """Who logs in, if the password is theirs and the client id may be; no other id is ever assigned."""
        principal = self.who_is(username)
        if principal is None or not self._is_theirs(principal, password):
            return None
        return principal if self._may_have(principal, client_id) else None

    def who_is(self, username: str) -> Principal | None:
        """Who has this user name now; the broker has checked the password when they came in."""
        if self._server is not None and username == self._server.username:
            return self._server.principal
        if username.startswith(OPERATOR_PREFIX):
            return self._keyring.operator(username.removeprefix(OPERATOR_PREFIX))
        return Principal(Role.AGENT, username) if self._is_agent(username) else None

    def _may_have(self, principal: Principal, client_id: str) -> bool:
        is_servers = self._server is not None and client_id == self._server.client_id
        if principal.role is Role.SERVER or is_servers:
            return principal.role is Role.SERVER and is_servers
        return assign_client_id(principal, client_id, self._is_agent) == client_id

    def _is_theirs(self, principal: Principal, password: str) -> bool:
        if principal.role is Role.SERVER:
            return self._server is not None and signing.is_same(password, self._server.password)
        user = OPERATOR_USER if principal.role is Role.OPERATOR else principal.id
        return self._keyring.login(user, password) == principal

    def _is_agent(self, name: str) -> bool:
        return self._keyring.key_of(name) is not None
