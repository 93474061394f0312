"""Pingup's users as clients of Mosquitto's dynamic security."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress

from pingup.brokers.dynsec.control import Control
from pingup.brokers.dynsec.leaving import Leaver
from pingup.brokers.dynsec.plan import Known, Plan, concerned_roles, plan
from pingup.brokers.dynsec.wire import (
    Client,
    Command,
    GetClient,
    GetRole,
    ListClients,
    ListRoles,
    Role,
)
from pingup.errors import Unavailable
from pingup.model import Account, Reconciled

log = logging.getLogger(__name__)

CLEAR_ALL_WITHIN = 60.0  # seconds, however many leave at once; who is left then is deleted all the same

# An answer is one message; a page of clients or roles is about 150 KB.
_PAGE = 500

_GONE = frozenset({"Client not found", "Role not found"})


class DynsecAccounts:
    """Implements `pingup.ports.AccountStore`."""

    def __init__(self, control: Control, instance: str) -> None:
        """`instance` marks the clients that are ours, in a broker that may be others' too."""
        self._control = control
        self._instance = instance

    async def reconcile(self, wanted: Sequence[Account], *, spared: Collection[str] = ()) -> Reconciled:
        """List what is there, and change what differs."""
        known = Known(
            {client.username: client for client in await self._clients()},
            {role.rolename: role for role in await self._roles()},
        )
        return await self._carry_out(plan(self._instance, known, wanted, spared))

    async def settle(self, username: str, account: Account | None) -> Reconciled:
        """Look at this one account, and change what differs."""
        roles = concerned_roles(username)
        found, *answers = await self._control.ask(
            [GetClient(username=username), *(GetRole(rolename=name) for name in roles)]
        )
        client = found.data.client
        known = Known(
            {} if client is None else {username: client},
            {answer.data.role.rolename: answer.data.role for answer in answers if answer.data.role},
        )
        return await self._carry_out(plan(self._instance, known, [] if account is None else [account]))

    async def rest(self) -> None:
        """Close the connection to the broker."""
        await self._control.close()

    async def _carry_out(self, planned: Plan) -> Reconciled:
        passwords = [secrets.token_urlsafe(32) for _ in planned.leaving]
        leavers = list(zip(planned.leaving, passwords, strict=True))
        await self._have_done([leaver.shut_out(password) for leaver, password in leavers], may_be_gone=True)
        await self._have_done(planned.commands)
        await self._clear(leavers)
        await self._have_done(planned.deletions, may_be_gone=True)
        return planned.outcome

    async def _have_done(self, commands: Sequence[Command], *, may_be_gone: bool = False) -> None:
        for command, answer in zip(commands, await self._control.ask(commands), strict=True):
            if answer.error is not None and not (may_be_gone and answer.error in _GONE):
                name = getattr(command, "username", None) or getattr(command, "rolename", "")
                raise Unavailable(f"the broker does not carry out {answer.command} {name}: {answer.error}")

    async def _clear(self, leavers: Sequence[tuple[Leaver, str]]) -> None:
        """Rid the broker of what they left, one after the other, as far as it lets us."""
        left = [leaver.username for leaver, _ in leavers]
        why = "it took too long"
        with suppress(TimeoutError):
            async with asyncio.timeout(CLEAR_ALL_WITHIN):
                for leaver, password in leavers:
                    try:
                        await leaver.clear(self._control.options, password)
                        left.remove(leaver.username)
                    except Unavailable as problem:
                        why = str(problem)
        if left:
            log.warning(
                "%d accounts went and left something at the broker, like %s: %s", len(left), left[0], why
            )

    async def _clients(self) -> list[Client]:
        clients: list[Client] = []
        while True:
            ask = ListClients(verbose=True, count=_PAGE, offset=len(clients))
            (answer,) = await self._control.ask([ask])
            clients += answer.data.clients
            if len(answer.data.clients) < _PAGE:
                return clients

    async def _roles(self) -> list[Role]:
        roles: list[Role] = []
        while True:
            (answer,) = await self._control.ask([ListRoles(verbose=True, count=_PAGE, offset=len(roles))])
            roles += answer.data.roles
            if len(answer.data.roles) < _PAGE:
                return roles
