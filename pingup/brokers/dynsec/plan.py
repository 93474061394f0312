"""From what a broker knows to what it should know: the fewest commands. Nothing here talks to anybody."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec
from msgspec import UNSET

from pingup.brokers.dynsec.leaving import Leaver
from pingup.brokers.dynsec.marks import mark_of, read_mark
from pingup.brokers.dynsec.roles import SHARED_ROLES, held_roles, own_role, own_role_name
from pingup.brokers.dynsec.wire import (
    Client,
    Command,
    CreateClient,
    CreateRole,
    DeleteClient,
    DeleteRole,
    ModifyClient,
    ModifyRole,
)
from pingup.brokers.dynsec.wire import Role as BrokerRole
from pingup.model import Account, Obstacle, Reconciled, Role, Unsettled


class Known(msgspec.Struct, frozen=True):
    """What a broker knows, by name; of all clients and roles, or of those that a plan is about."""

    clients: dict[str, Client]
    roles: dict[str, BrokerRole]


class Plan(msgspec.Struct, frozen=True):
    """What there is to do, and what it comes to.

    `leaving` are shut out first, `commands` bring what is new or other, `deletions` come last.
    """

    leaving: tuple[Leaver, ...]
    commands: tuple[Command, ...]
    deletions: tuple[Command, ...]
    outcome: Reconciled


def plan(instance: str, known: Known, wanted: Sequence[Account], spared: Collection[str] = ()) -> Plan:
    """How the broker gets to have exactly these accounts of this server, beside other people's.

    Args:
        instance: this server's mark. Another Pingup's clients are other people's.
        known: all that the broker knows, or only what concerns one account.
        wanted: the accounts that should be there.
        spared: user names that stay as they are.
    """
    steps = [_account_step(known.clients.get(account.username), account, instance) for account in wanted]
    roles = _wanted_roles(step.account for step in steps if step.is_there)
    stay = {step.account.username for step in steps if step.is_there} | set(spared)
    leaving = _leaving(instance, known, stay)
    return Plan(
        leaving=leaving,
        commands=(
            *_role_commands(known, roles),
            *(step.command for step in steps if step.command is not None),
        ),
        deletions=tuple(_deletions(known, leaving)),
        outcome=Reconciled(
            created=_names(steps, CreateClient),
            changed=_names(steps, ModifyClient),
            removed=tuple(leaver.username for leaver in leaving),
            unsettled=tuple(
                Unsettled(step.account.username, step.obstacle) for step in steps if step.obstacle is not None
            ),
        ),
    )


# --- clients ---------------------------------------------------------------------------------------


class _Step(msgspec.Struct, frozen=True):
    """What is done about one account, and what can't be."""

    account: Account
    command: CreateClient | ModifyClient | None = None
    obstacle: Obstacle | None = None

    @property
    def is_there(self) -> bool:
        """Whether it is an account of this server's in the end."""
        return self.obstacle in (None, Obstacle.DISABLED)


def _account_step(found: Client | None, account: Account, instance: str) -> _Step:
    if found is None:
        if account.password is None:
            return _Step(account, obstacle=Obstacle.PASSWORD_UNKNOWN)
        return _Step(account, _create(account, account.password, instance))
    mark = read_mark(found, instance)
    if mark is None:
        return _Step(account, obstacle=Obstacle.NAME_TAKEN)
    is_new = mark.fingerprint != account.fingerprint
    if is_new and account.password is None:
        # The password that the broker has is another one, and must not work any more.
        return _Step(account, obstacle=Obstacle.PASSWORD_UNKNOWN)
    obstacle = Obstacle.DISABLED if found.disabled else None
    if _is_same(found, account, instance):
        return _Step(account, None, obstacle)
    return _Step(account, _modify(account, account.password if is_new else None, instance), obstacle)


def _create(account: Account, password: str, instance: str) -> CreateClient:
    return CreateClient(
        username=account.username,
        password=password,
        clientid=_client_id(account),
        textdescription=str(mark_of(account, instance)),
        roles=held_roles(account.principal),
    )


def _modify(account: Account, new_password: str | None, instance: str) -> ModifyClient:
    return ModifyClient(
        username=account.username,
        password=UNSET if new_password is None else new_password,
        clientid=_client_id(account),
        textdescription=str(mark_of(account, instance)),
        roles=held_roles(account.principal),
        groups=(),
    )


def _is_same(found: Client, account: Account, instance: str) -> bool:
    return (
        (found.clientid or "") == _client_id(account)
        and found.textdescription == str(mark_of(account, instance))
        and found.roles == held_roles(account.principal)
        and not found.groups
    )


def _client_id(account: Account) -> str:
    """The only client id that the broker lets the user have; empty for the server, whose id is a setting."""
    return "" if account.principal.role is Role.SERVER else account.username


def _leaving(instance: str, known: Known, stay: Collection[str]) -> tuple[Leaver, ...]:
    """Those of this server's that are not to stay."""
    marked = ((client, read_mark(client, instance)) for client in known.clients.values())
    return tuple(
        Leaver(client, mark) for client, mark in marked if mark is not None and client.username not in stay
    )


def _names(steps: Sequence[_Step], kind: type[Command]) -> tuple[str, ...]:
    return tuple(step.account.username for step in steps if isinstance(step.command, kind))


# --- roles -----------------------------------------------------------------------------------------


def _wanted_roles(accounts: Iterable[Account]) -> tuple[BrokerRole, ...]:
    own = (own_role(account.principal) for account in accounts)
    return (*SHARED_ROLES, *(role for role in own if role is not None))


def _role_commands(known: Known, wanted: Sequence[BrokerRole]) -> Iterable[Command]:
    """Roles come before the clients that hold them."""
    for role in wanted:
        found = known.roles.get(role.rolename)
        if found is None:
            yield CreateRole(rolename=role.rolename, acls=role.acls)
        elif set(found.acls) != set(role.acls):
            yield ModifyRole(rolename=role.rolename, acls=role.acls)


def _deletions(known: Known, leaving: Sequence[Leaver]) -> Iterable[Command]:
    """Clients, each with the role that is its own.

    Mosquitto 2.0.11 does not survive the deletion of a role that somebody has. So the two come in pairs, of
    which a request takes whole ones, and between them nobody can get the role.
    """
    gone = [leaver.username for leaver in leaving]
    others = (client for client in known.clients.values() if client.username not in gone)
    kept = {held.rolename for client in others for held in client.roles}
    deletable = known.roles.keys() - kept
    roles = {name: own_role_name(name) for name in gone if own_role_name(name) in deletable}
    for name, role in roles.items():
        yield DeleteClient(username=name)
        yield DeleteRole(rolename=role)
    yield from (DeleteClient(username=name) for name in gone if name not in roles)


def concerned_roles(username: str) -> tuple[str, ...]:
    """The names of the roles that a plan for one account has to know."""
    return (*(role.rolename for role in SHARED_ROLES), own_role_name(username))
