"""A broker's accounts follow what happens to agents and API tokens, also while it was away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import aiomqtt
import pytest

from pingup.brokers.dynsec import Control, DynsecAccounts
from pingup.brokers.session import Credentials, Options
from pingup.clock import SystemClock
from pingup.crew import Crew
from pingup.errors import Unavailable
from pingup.model import AgentKey, Algorithm, ApiToken, Scope
from pingup.services import accounts
from pingup.services.accounts import Accounts
from pingup.services.admission import ServerAccount
from pingup.services.keyring import Keyring
from pingup.services.roll import Roll
from pingup.signing import Fingerprints, hash_token, token_of
from tests.dynsec.visitors import LIMIT, client, comes_in, until_disconnected
from tests.mosquitto import HOST, Dynsec

pytestmark = pytest.mark.mosquitto

SERVER = ServerAccount("server", "the server's password")


class Road:
    """The only way to a broker, on a port that stays the same; it can be closed, or lead to nowhere."""

    def __init__(self) -> None:
        self.port = 0
        self.target: int | None = None
        self.travelled = 0
        self.is_dead_end = False
        self.entered = asyncio.Event()
        self._travellers: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        listener = await asyncio.start_server(self._carry, HOST, 0)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            listener.close()
            for traveller in tuple(self._travellers):
                traveller.cancel()
            await asyncio.gather(*self._travellers, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._travellers.add(task)
        try:
            if self.is_dead_end:
                self.entered.set()
                await reader.read()
            elif self.target is not None:
                far_reader, far_writer = await asyncio.open_connection(HOST, self.target)
                await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._travellers.discard(task)
            writer.close()
            self.travelled += 1


async def until(holds: Callable[[], bool]) -> None:
    """For what has no event to wait for."""
    async with asyncio.timeout(LIMIT):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _pump(source: asyncio.StreamReader, drain: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65_536):
            drain.write(data)
    drain.close()


class Upkeep:
    """A keyring, and what keeps a broker's accounts like it."""

    def __init__(self, road: Road, password: str, instance: str = "0" * 16) -> None:
        clock = SystemClock()
        options = Options(
            host=HOST, port=road.port, client_id="admin", credentials=Credentials("admin", password)
        )
        self.keyring = Keyring(clock)
        self.roll = Roll(self.keyring, Fingerprints(b"master key"), server=SERVER)
        self.store = DynsecAccounts(Control(options), instance)
        self.accounts = Accounts(self.roll, self.keyring, self.store, clock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with Crew.open() as crew:
            crew.create_task(self.accounts.run())
            yield

    async def settled(self) -> None:
        await until(lambda: self.accounts.problem is None)

    def register(self, agent_id: str, secret: str | None = None) -> str:
        """Register an agent; its token."""
        token = token_of(secret or f"secret of {agent_id}")
        key = AgentKey(agent_id, Algorithm.HMAC_SHA256, secret or f"secret of {agent_id}", None, b"")
        self.keyring.put(
            AgentKey(*(key.agent_id, key.algorithm, key.secret, key.public_key, hash_token(token)))
        )
        return token

    def make_token(self, token_id: str, *, lives: float | None = None) -> str:
        now = datetime.now(UTC)
        ends = None if lives is None else now + timedelta(seconds=lives)
        text = f"pgp_{token_id}"
        self.keyring.admit(ApiToken(token_id, "x", Scope.READ, now, ends, None), hash_token(text), text)
        return text


@pytest.fixture
async def road() -> AsyncIterator[Road]:
    road = Road()
    async with road.open():
        yield road


@pytest.fixture
async def upkeep(road: Road, broker: Dynsec) -> AsyncIterator[Upkeep]:
    road.target = broker.port
    upkeep = Upkeep(road, broker.password)
    async with upkeep.running():
        yield upkeep


@asynccontextmanager
async def let_in(broker: Dynsec, user: str, password: str) -> AsyncIterator[aiomqtt.Client]:
    """A connection, as soon as the broker accepts it."""
    async with asyncio.timeout(LIMIT):
        while not await comes_in(broker.port, user, password):  # noqa: ASYNC110 - the broker tells nobody
            await asyncio.sleep(0.01)
    async with client(broker.port, user, password) as connection:
        yield connection


async def test_the_server_gets_its_own_account(broker: Dynsec, upkeep: Upkeep) -> None:
    async with let_in(broker, "server", SERVER.password):
        pass


async def test_an_agent_comes_in_soon_after_it_was_registered_and_goes_when_removed(
    broker: Dynsec, upkeep: Upkeep
) -> None:
    token = upkeep.register("a1")
    async with let_in(broker, "a1", token) as agent:
        upkeep.keyring.drop("a1")
        await until_disconnected(agent)
    assert not await comes_in(broker.port, "a1", token)


async def test_an_agent_with_a_new_secret_comes_in_with_its_new_token_only(
    broker: Dynsec, upkeep: Upkeep
) -> None:
    old = upkeep.register("a1")
    async with let_in(broker, "a1", old) as agent:
        new = upkeep.register("a1", "another secret")
        await until_disconnected(agent)
    async with let_in(broker, "a1", new):
        assert not await comes_in(broker.port, "a1", old)


async def test_an_api_token_comes_in_soon_after_it_was_made_and_goes_when_revoked(
    broker: Dynsec, upkeep: Upkeep
) -> None:
    text = upkeep.make_token("t1")
    async with let_in(broker, "operator.t1", text) as person:
        upkeep.keyring.expel("t1")
        await until_disconnected(person)


async def test_when_an_api_token_expires_its_connection_ends(broker: Dynsec, upkeep: Upkeep) -> None:
    await upkeep.settled()
    text = upkeep.make_token("t1", lives=1.0)
    upkeep.make_token("t2", lives=3600)
    async with let_in(broker, "operator.t1", text) as person:
        await until_disconnected(person)
    assert upkeep.keyring.operator("t1") is None


async def test_a_tokens_text_is_held_until_the_broker_has_it_and_no_longer(
    broker: Dynsec, upkeep: Upkeep
) -> None:
    await upkeep.settled()
    text = upkeep.make_token("t1")
    assert upkeep.roll.waiting() == ["operator.t1"]
    async with let_in(broker, "operator.t1", text):
        await until(lambda: upkeep.roll.waiting() == [])


async def test_what_changed_while_the_broker_was_away_is_brought_when_it_is_back(
    road: Road, broker: Dynsec
) -> None:
    upkeep = Upkeep(road, broker.password)
    async with upkeep.running():
        await until(lambda: road.travelled > 0)
        token, text = upkeep.register("a1"), upkeep.make_token("t1")
        assert upkeep.accounts.problem is not None
        road.target = broker.port
        async with let_in(broker, "a1", token), let_in(broker, "operator.t1", text):
            await upkeep.settled()


async def test_what_is_passed_on_is_there(broker: Dynsec, upkeep: Upkeep) -> None:
    await upkeep.settled()
    for number in range(5):
        token, text = upkeep.register(f"a{number}"), upkeep.make_token(f"t{number}")
        await upkeep.keyring.passed_on()
        assert await comes_in(broker.port, f"a{number}", token)
        assert await comes_in(broker.port, f"operator.t{number}", text)
        upkeep.keyring.drop(f"a{number}")
        upkeep.keyring.expel(f"t{number}")
        await upkeep.keyring.passed_on()
        assert not await comes_in(broker.port, f"a{number}", token)
        assert not await comes_in(broker.port, f"operator.t{number}", text)


async def test_what_changes_once_more_while_it_is_passed_on_is_waited_for(
    broker: Dynsec, upkeep: Upkeep
) -> None:
    await upkeep.settled()
    async with asyncio.TaskGroup() as callers:
        for number in range(8):
            upkeep.register("a1", f"secret {number}")
            callers.create_task(upkeep.keyring.passed_on())
            await asyncio.sleep(0)
        token = upkeep.register("a1", "the last secret")
        await upkeep.keyring.passed_on()
        assert await comes_in(broker.port, "a1", token)


async def test_the_accounts_that_there_were_at_the_start_are_waited_for(road: Road, broker: Dynsec) -> None:
    upkeep = Upkeep(road, broker.password)
    token = upkeep.register("a1")
    road.target = broker.port
    async with upkeep.running():
        await upkeep.accounts.may_connect()
        assert await comes_in(broker.port, "server", SERVER.password)
        assert await comes_in(broker.port, "a1", token)


async def test_nobody_waits_for_a_broker_that_is_away(road: Road) -> None:
    upkeep = Upkeep(road, "any")
    async with upkeep.running():
        await until(lambda: "cannot connect" in (upkeep.accounts.problem or ""))
        upkeep.register("a1")
        passing = asyncio.ensure_future(upkeep.keyring.passed_on())
        await asyncio.sleep(0)
        assert passing.done()


async def test_a_broker_that_does_not_answer_is_not_waited_for_long(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_PASSED_ON_WITHIN", 0.05)
    monkeypatch.setattr(accounts, "_COMPARED_WITHIN", 0.05)
    road.is_dead_end = True
    upkeep = Upkeep(road, "any")
    async with upkeep.running(), asyncio.timeout(LIMIT):
        await road.entered.wait()
        upkeep.register("a1")
        await upkeep.keyring.passed_on()
        await upkeep.accounts.may_connect()
        assert upkeep.accounts.problem == "the broker's accounts are not compared yet"


async def test_a_server_whose_name_another_one_has_waits_until_it_is_free(road: Road, broker: Dynsec) -> None:
    road.target = broker.port
    first, second = Upkeep(road, broker.password), Upkeep(road, broker.password, instance="f" * 16)
    await first.store.reconcile(first.roll.all())
    await first.store.rest()
    async with second.running():
        waiting = asyncio.ensure_future(second.accounts.may_connect())
        await until(lambda: "belongs to another Pingup" in (second.accounts.problem or ""))
        assert not waiting.done()
    await first.store.reconcile([])
    await first.store.rest()
    second.accounts.compare()
    async with second.running(), asyncio.timeout(LIMIT):
        await waiting
        assert second.accounts.problem is None


async def test_a_broker_that_has_forgotten_an_account_gets_it_back_when_asked_to_compare(
    broker: Dynsec, upkeep: Upkeep
) -> None:
    token = upkeep.register("a1")
    async with let_in(broker, "a1", token) as agent:
        await upkeep.settled()
        await upkeep.store.settle("a1", None)
        await until_disconnected(agent)
    upkeep.accounts.compare()
    async with let_in(broker, "a1", token):
        pass


async def test_a_token_that_the_broker_never_got_is_said_at_the_end(
    road: Road, caplog: pytest.LogCaptureFixture
) -> None:
    upkeep = Upkeep(road, "any")
    with caplog.at_level(logging.WARNING):
        async with upkeep.running():
            upkeep.make_token("t1")
            await until(lambda: "cannot connect" in (upkeep.accounts.problem or ""))
    assert "API tokens that the broker never got, and that new ones must replace: operator.t1" in caplog.text


async def test_a_token_whose_text_is_gone_is_said_and_gets_no_account(
    broker: Dynsec, upkeep: Upkeep, caplog: pytest.LogCaptureFixture
) -> None:
    await upkeep.settled()
    with caplog.at_level(logging.WARNING):
        now = datetime.now(UTC)
        upkeep.keyring.admit(ApiToken("t1", "x", Scope.READ, now, None, None), hash_token("lost"))
        token = upkeep.register("a1")
        async with let_in(broker, "a1", token):
            pass
    assert "operator.t1 cannot use the broker: nobody knows its password any more" in caplog.text
    assert not await comes_in(broker.port, "operator.t1", "lost")


async def test_a_broker_that_does_not_let_us_in_is_said_once(
    road: Road, broker: Dynsec, caplog: pytest.LogCaptureFixture
) -> None:
    road.target = broker.port
    upkeep = Upkeep(road, "wrong")
    with pytest.raises(Unavailable):
        await upkeep.store.reconcile([])
    with caplog.at_level(logging.WARNING):
        async with upkeep.running():
            await until(lambda: "not authorised" in (upkeep.accounts.problem or ""))
            tried = road.travelled
            await until(lambda: road.travelled > tried)
    assert caplog.text.count("accounts are not brought to the broker") == 1
