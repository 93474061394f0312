"""Accounts at a broker outside, and what was done about them."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pingup.model.people import Principal


class Account(msgspec.Struct, frozen=True):
    """A user of a broker outside: an agent, the server, or one API token.

    `fingerprint` changes with the password and tells nothing about it: 32 hexadecimal digits. The password is
    None when only its owner knows it.
    """

    username: str
    principal: Principal
    fingerprint: str
    password: str | None

    def __repr__(self) -> str:
        return f"Account({self.username!r}, {self.principal!r}, password=…)"


class Obstacle(StrEnum):
    """Why an account can't be brought to a broker. The values are shown to users."""

    PASSWORD_UNKNOWN = "password_unknown"  # noqa: S105 - not a password
    NAME_TAKEN = "name_taken"
    DISABLED = "disabled"


class Unsettled(msgspec.Struct, frozen=True):
    """An account that could not be brought to a broker, and why."""

    username: str
    obstacle: Obstacle


class Reconciled(msgspec.Struct, frozen=True):
    """What was done to a broker's accounts, by user name; all empty when they were as they should be."""

    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unsettled: tuple[Unsettled, ...] = ()
