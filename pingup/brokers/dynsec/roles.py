"""The table of who may do what (`pingup.access`) as roles of dynamic security.

Each role ends in lines that deny the rest, so that the broker's own defaults don't matter. They can stay as
they are: they hold for other people's clients too.
"""

from __future__ import annotations

from collections.abc import Iterable

from pingup.access import publishable, receivable
from pingup.brokers.dynsec.wire import Acl, AclType, HeldRole, Role
from pingup.model import Principal, Scope
from pingup.model import Role as Part

PREFIX = "pingup."
"""Role names that begin like this are Pingup's."""

_AGENTS = f"{PREFIX}agents"
_ALLOW, _DENY = 1, 0
_OWN, _SHARED = 1, 0

# Two agents that don't matter: what both may use is what agents have in common.
_ONE, _OTHER = Principal(Part.AGENT, "one"), Principal(Part.AGENT, "other")
_COMMON = frozenset(receivable(_ONE)) & frozenset(receivable(_OTHER))

_THE_REST = (
    Acl(AclType.SEND, "#", False, _DENY),
    Acl(AclType.RECEIVE, "#", False, _DENY),
    Acl(AclType.RECEIVE, "$SYS/#", False, _DENY),
    Acl(AclType.SUBSCRIBE, "#", False, _DENY),
)


def _allow(publishes: Iterable[str], receives: Iterable[str]) -> tuple[Acl, ...]:
    """A subscription must lie within what may be received, and each delivery is looked at besides."""
    receives = tuple(receives)
    return (
        *(Acl(AclType.SEND, topic, True, _ALLOW) for topic in publishes),
        *(Acl(AclType.RECEIVE, topic, True, _ALLOW) for topic in receives),
        *(Acl(AclType.SUBSCRIBE, topic, True, _ALLOW) for topic in receives),
    )


def _shared(name: str, publishes: Iterable[str], receives: Iterable[str]) -> Role:
    return Role(name, (*_allow(publishes, receives), *_THE_REST))


def _of_kind(name: str, principal: Principal) -> Role:
    return _shared(f"{PREFIX}{name}", publishable(principal), receivable(principal))


_BY_PART = {
    Part.SERVER: _of_kind("server", Principal(Part.SERVER, "")),
    Part.OPERATOR: _of_kind("operators", Principal(Part.OPERATOR, "")),
    Part.AGENT: _shared(_AGENTS, (), _COMMON),
}
_ADMINS = _of_kind("admins", Principal(Part.OPERATOR, "", Scope.ADMIN))

SHARED_ROLES: tuple[Role, ...] = (*_BY_PART.values(), _ADMINS)
"""Roles that are there whoever else is."""


def own_role_name(username: str) -> str:
    """The role that only the agent with this user name has."""
    return f"{PREFIX}agent.{username}"


def own_role(principal: Principal) -> Role | None:
    """The role that only this somebody has; agents have one."""
    if principal.role is not Part.AGENT:
        return None
    receives = (topic for topic in receivable(principal) if topic not in _COMMON)
    return Role(own_role_name(principal.id), _allow(publishable(principal), receives))


def held_roles(principal: Principal) -> tuple[HeldRole, ...]:
    """The roles that this somebody has: its own one first."""
    is_admin = principal.role is Part.OPERATOR and principal.scope is Scope.ADMIN
    shared = HeldRole((_ADMINS if is_admin else _BY_PART[principal.role]).rolename, _SHARED)
    own = own_role(principal)
    return (shared,) if own is None else (HeldRole(own.rolename, _OWN), shared)
