"""Accounts of a broker with dynamic security, and what brings them there."""

from __future__ import annotations

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from pingup.brokers.dynsec import Control, DynsecAccounts
from pingup.brokers.session import Credentials, Options
from pingup.model import Account, Principal, Role, Scope
from tests.dynsec.visitors import LIMIT, client, comes_in
from tests.mosquitto import HOST, Dynsec

OURS, THEIRS = "0" * 16, "f" * 16
OLD, NEW = "1" * 32, "2" * 32


def account(principal: Principal, password: str | None = None, fingerprint: str = OLD) -> Account:
    name = f"operator.{principal.id}" if principal.role is Role.OPERATOR else principal.id
    return Account(name, principal, fingerprint, password or f"password of {name}")


SERVER = account(Principal(Role.SERVER, "server"))
ONE, OTHER = (account(Principal(Role.AGENT, name)) for name in ("agent-1", "agent-2"))
READER = account(Principal(Role.OPERATOR, "t1", Scope.READ))
ADMIN = account(Principal(Role.OPERATOR, "t2", Scope.ADMIN))
EVERYBODY = [SERVER, ONE, OTHER, READER, ADMIN]


def store_at(
    broker: Dynsec, user: str | None = None, password: str | None = None, *, within: float = LIMIT
) -> DynsecAccounts:
    return store_on(broker.port, user or broker.admin, password or broker.password, within=within)


def store_on(
    port: int, user: str, password: str, *, within: float = LIMIT, instance: str = OURS
) -> DynsecAccounts:
    options = Options(host=HOST, port=port, client_id=user, credentials=Credentials(user, password))
    return DynsecAccounts(Control(options, answer_within=within), instance)


def seat(broker: Dynsec, who: Account) -> aiomqtt.Client:
    return client(broker.port, who.username, who.password)


async def is_let_in(broker: Dynsec, who: Account, password: str | None = None) -> bool:
    return await comes_in(broker.port, who.username, password or who.password)


def keeping_session() -> Properties:
    kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no annotation here
    kept.SessionExpiryInterval = 3600
    return kept
