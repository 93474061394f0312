"""What stands in the description of each client that Pingup makes: whose it is, and with which password."""

from __future__ import annotations

import re

import msgspec

from pingup.brokers.dynsec.wire import Client
from pingup.model import Account, Role

_MARK = re.compile(r"pingup ([0-9a-f]{16}) (agent|operator|server) ([0-9a-f]{32})")


class Mark(msgspec.Struct, frozen=True):
    """`instance` tells servers apart that share a broker, `fingerprint` passwords."""

    instance: str
    role: Role
    fingerprint: str

    def __str__(self) -> str:
        return f"pingup {self.instance} {self.role} {self.fingerprint}"


def mark_of(account: Account, instance: str) -> Mark:
    """The mark of an account of this server."""
    return Mark(instance, account.principal.role, account.fingerprint)


def read_mark(client: Client, instance: str) -> Mark | None:
    """The mark of a client; None when it is another Pingup's or somebody else's."""
    found = _MARK.fullmatch(client.textdescription or "")
    if found is None or found[1] != instance:
        return None
    return Mark(instance, Role(found[2]), found[3])
