"""Accounts at a broker outside: brought there as agents and API tokens come, change and go.

If the server stops before the broker has got a new API token, that token works over REST and not at the
broker. That is said, and a new one helps; its text is kept nowhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from pingup.access import username_of
from pingup.backoff import full_jitter
from pingup.clock import Clock
from pingup.errors import Unavailable
from pingup.model import Account, Obstacle, Principal, Reconciled, Role, Unsettled
from pingup.ports import AccountStore
from pingup.services.keyring import Keyring
from pingup.services.roll import Roll

log = logging.getLogger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds before another attempt, with full jitter
_REST_AFTER = 10.0  # seconds without anything to do
_COMPARE_EVERY = 600.0  # seconds, for what nobody tells us of
_PASSED_ON_WITHIN = 2.0  # seconds that a caller waits for the broker
_COMPARED_WITHIN = 10.0  # seconds that the server waits for its own account before it tries without

_WORDS = {
    Obstacle.PASSWORD_UNKNOWN: (
        "nobody knows its password any more: make a new token, or register the agent anew"
    ),
    Obstacle.NAME_TAKEN: (
        "the broker has a client of that name, and it belongs to another Pingup or to somebody else: "
        "if it is needed no more, remove it there"
    ),
    Obstacle.DISABLED: "it is disabled at the broker: enable it there",
}


def in_words(obstacle: Obstacle) -> str:
    """Why somebody can't use the broker, and what to do."""
    return _WORDS[obstacle]


class _Change:
    """Somebody who came, changed or went, and whether the broker knows it."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.is_taken = False
        self.is_passed_on = asyncio.Event()


class Accounts:
    """Keeps a broker's accounts as the roll says: all of them at first, then each as it changes."""

    def __init__(self, roll: Roll, keyring: Keyring, store: AccountStore, clock: Clock) -> None:
        self.problem: str | None = "the broker's accounts are not compared yet"
        """Why the broker's accounts may not be as they should be, in words; None when they are."""
        self._roll = roll
        self._keyring = keyring
        self._store = store
        self._clock = clock
        # By user name, in the order of their changes, until the broker has them.
        self._changed: dict[str, _Change] = {}
        self._compare_all = True
        self._is_away = False
        self._compared = asyncio.Event()
        self._is_own_name_free = asyncio.Event()
        self._is_own_name_free.set()
        self._looked_at = clock.now()
        self._news = asyncio.Event()
        self._told: frozenset[Unsettled] = frozenset()
        keyring.watch(self)

    def compare(self) -> None:
        """Have all accounts looked at soon: the broker may have forgotten some."""
        self._compare_all = True
        self._news.set()

    async def compared(self) -> None:
        """Wait until all accounts were compared once, but no longer than 10 s."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_COMPARED_WITHIN):
                await self._compared.wait()

    async def may_connect(self) -> None:
        """Wait until the server's own account is there, as far as can be told within 10 s.

        While another Pingup has its name, it is waited for: the session and what waits in it are that one's.
        """
        await self.compared()
        await self._is_own_name_free.wait()

    def note(self, principal: Principal, text: str | None) -> None:
        """Have this one's account looked at soon; `text` is a new API token's."""
        if text is not None:
            self._roll.learn(text)
        self._note(principal)
        self._news.set()

    async def passed_on(self) -> None:
        """Wait until the broker has what was noted; not for one that is away, nor longer than 2 s."""
        if self._is_away:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_PASSED_ON_WITHIN):
                for change in tuple(self._changed.values()):
                    await change.is_passed_on.wait()

    async def run(self) -> None:
        """Bring accounts to the broker as they change, until cancelled."""
        try:
            await self._run()
        finally:
            await self._store.rest()
            if self._roll.waiting():
                names = ", ".join(self._roll.waiting())
                log.warning("API tokens that the broker never got, and that new ones must replace: %s", names)

    async def _run(self) -> None:
        attempt = 0
        while True:
            self._news.clear()
            try:
                await self._work()
            except Unavailable as problem:
                self._say(str(problem))
                self._compare_all = self._is_away = True
                await asyncio.sleep(full_jitter(_FIRST_WAIT, _LONGEST_WAIT, attempt))
                attempt += 1
            else:
                attempt, self._is_away = 0, False
                await self._wait()

    # --- what there is to do -----------------------------------------------------------------------

    def _note(self, principal: Principal) -> None:
        change = self._changed.get(username_of(principal))
        if change is None or change.is_taken:
            self._changed[username_of(principal)] = _Change(principal)
        else:
            change.principal = principal

    async def _work(self) -> None:
        self._note_expired()
        while self._compare_all or self._changed:
            if self._compare_all:
                await self._compare()
            else:
                await self._settle(next(iter(self._changed)))

    async def _compare(self) -> None:
        self._compare_all = False
        changes = self._take(self._changed)
        wanted = self._roll.all()
        done = await self._store.reconcile(wanted)
        self._report(wanted, done)
        self._told = frozenset(done.unsettled)
        self._look_at_own(wanted, done)
        self._pass_on(changes)

    async def _settle(self, username: str) -> None:
        changes = self._take([username])
        account = self._roll.of(changes[username].principal)
        done = await self._store.settle(username, account)
        self._report([] if account is None else [account], done)
        self._pass_on(changes)

    def _take(self, usernames: Iterable[str]) -> dict[str, _Change]:
        """What is looked at now: who changes again from here on is looked at again."""
        changes = {username: self._changed[username] for username in usernames}
        for change in changes.values():
            change.is_taken = True
        return changes

    def _pass_on(self, changes: Mapping[str, _Change]) -> None:
        """The broker has these now."""
        for username, change in changes.items():
            change.is_passed_on.set()
            if self._changed.get(username) is change:
                del self._changed[username]

    def _look_at_own(self, wanted: Iterable[Account], done: Reconciled) -> None:
        """Whether the server's own name is free for it."""
        own = {account.username for account in wanted if account.principal.role is Role.SERVER}
        taken = [one for one in done.unsettled if one.username in own and one.obstacle is Obstacle.NAME_TAKEN]
        if taken:
            self._is_own_name_free.clear()
            self.problem = f"{taken[0].username} cannot use the broker: {in_words(Obstacle.NAME_TAKEN)}"
        else:
            self._is_own_name_free.set()
            self.problem = None
        self._compared.set()

    def _note_expired(self) -> None:
        """A token that has expired since the last look has an account that must go."""
        since, self._looked_at = self._looked_at, self._clock.now()
        for principal, end in self._keyring.expiries():
            if since < end <= self._looked_at:
                self._note(principal)

    # --- when --------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Until something has changed, a token expires, or it is time to compare all."""
        if await self._comes_within(_REST_AFTER):
            return
        await self._store.rest()
        if not await self._comes_within(_COMPARE_EVERY if self._is_own_name_free.is_set() else _LONGEST_WAIT):
            self._compare_all = True

    async def _comes_within(self, seconds: float) -> bool:
        """Whether there is something to do before so much time is over."""
        until_expiry = self._until_expiry()
        try:
            async with asyncio.timeout(min(seconds, until_expiry)):
                await self._news.wait()
        except TimeoutError:
            return until_expiry <= seconds
        return True

    def _until_expiry(self) -> float:
        """Seconds until the next token expires."""
        ends = [end for _, end in self._keyring.expiries() if end > self._looked_at]
        return (min(ends) - self._clock.now()).total_seconds() if ends else float("inf")

    # --- what people hear of it --------------------------------------------------------------------

    def _say(self, problem: str) -> None:
        """Say what is wrong; once, however many attempts fail in the same way."""
        if problem != self.problem:
            log.warning("accounts are not brought to the broker: %s", problem)
        self.problem = problem

    def _report(self, wanted: Sequence[Account], done: Reconciled) -> None:
        unsettled = {one.username for one in done.unsettled}
        for account in wanted:
            if account.username not in unsettled:
                self._roll.forget(account)
        for what, names in (("new", done.created), ("changed", done.changed), ("removed", done.removed)):
            if names:
                log.info("accounts at the broker, %s: %s", what, _shown(names))
        for one in done.unsettled:
            if one not in self._told:
                log.warning("%s cannot use the broker: %s", one.username, in_words(one.obstacle))


def _shown(names: Sequence[str]) -> str:
    first = ", ".join(names[:10])
    return first if len(names) <= 10 else f"{first} and {len(names) - 10:,} more"
