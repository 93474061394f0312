"""What brokers outside are told about who may come in, each asked as the broker itself asks."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from pingup.model import Scope
from pingup.settings import HttpSettings, InternalSettings, MqttSettings, Settings
from tests.conftest import ManualClock
from tests.http.house import House, open_house

AUTH, ACL = "/internal/mqtt/auth", "/internal/mqtt/acl"
TOKEN = "the-token-of-the-broker-that-asks-us"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SETTINGS = Settings(
    http=HttpSettings(port=0),
    mqtt=MqttSettings(url="mqtt://server:the%20password@localhost"),
    internal=InternalSettings(token=TOKEN),
)


@pytest_asyncio.fixture
async def house(tmp_path: Path, clock: ManualClock) -> AsyncIterator[House]:
    async with open_house(tmp_path, clock, SETTINGS) as house:
        yield house


class Asker:
    """Logs in and asks, as each broker does; the answer as that broker understands it."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def logs_in(self, user: str | None, password: str | None, client_id: str) -> bool:
        raise NotImplementedError

    async def publishes(self, user: str, topic: str) -> bool:
        raise NotImplementedError

    async def subscribes(self, user: str, topic_filter: str) -> bool:
        raise NotImplementedError

    async def _post(
        self, path: str, body: Mapping[str, Any] | bytes, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        answer = await self._house.call("POST", path, None, body, headers)
        assert answer.status == 200, answer.body
        assert answer.headers["Content-Type"].startswith("application/json")
        document: dict[str, Any] = answer.json
        return document


class Emqx(Asker):
    """EMQX with the bodies of broker_config/emqx/; undefined placeholders come as null."""

    async def logs_in(self, user: str | None, password: str | None, client_id: str) -> bool:
        body = {"username": user, "password": password, "clientid": client_id}
        answer = await self._post(AUTH, body, BEARER)
        assert answer["is_superuser"] is False
        return self._is_allowed(answer)

    async def publishes(self, user: str, topic: str) -> bool:
        return await self._may(user, topic, "publish")

    async def subscribes(self, user: str, topic_filter: str) -> bool:
        return await self._may(user, topic_filter, "subscribe")

    async def _may(self, user: str, topic: str, action: str) -> bool:
        body = {"username": user, "clientid": user, "topic": topic, "action": action}
        return self._is_allowed(await self._post(ACL, body, BEARER))

    @staticmethod
    def _is_allowed(answer: dict[str, Any]) -> bool:
        assert answer["result"] in ("allow", "deny")
        return bool(answer["result"] == "allow")


class GoAuth(Asker):
    """mosquitto-go-auth with `response_mode json` and `params_mode json`; credentials in the host."""

    async def logs_in(self, user: str | None, password: str | None, client_id: str) -> bool:
        body = {"username": user or "", "password": password or "", "clientid": client_id}
        return await self._ask(AUTH, body)

    async def publishes(self, user: str, topic: str) -> bool:
        return await self._ask(ACL, {"username": user, "clientid": user, "topic": topic, "acc": 2})

    async def subscribes(self, user: str, topic_filter: str) -> bool:
        return await self._ask(ACL, {"username": user, "clientid": user, "topic": topic_filter, "acc": 4})

    async def _ask(self, path: str, body: dict[str, Any]) -> bool:
        answer = await self._post(path, body, basic(TOKEN))
        assert isinstance(answer["Ok"], bool)
        assert answer["Ok"] is not bool(answer["Error"])
        return answer["Ok"]


class GoAuthForms(GoAuth):
    """The same with `params_mode form`."""

    async def _ask(self, path: str, body: dict[str, Any]) -> bool:
        answer = await self._post(path, urlencode(body).encode(), {**basic(TOKEN), **FORM})
        return bool(answer["Ok"])


class Verne(Asker):
    """VerneMQ's hooks for MQTT 3.1.1; credentials in the endpoint."""

    version = ""

    async def logs_in(self, user: str | None, password: str | None, client_id: str) -> bool:
        body = {
            "peer_addr": "127.0.0.1",
            "peer_port": 8888,
            "mountpoint": "",
            "client_id": client_id,
            "username": user,
            "password": password,
            "clean_session": False,
        }
        return await self._hook(AUTH, "auth_on_register", body)

    async def publishes(self, user: str, topic: str) -> bool:
        body = {
            "username": user,
            "client_id": user,
            "mountpoint": "",
            "qos": 1,
            "topic": topic,
            "payload": base64.b64encode(b"{" * 100_000).decode(),
            "retain": False,
        }
        return await self._hook(ACL, "auth_on_publish", body)

    async def subscribes(self, user: str, topic_filter: str) -> bool:
        topics = [{"topic": topic_filter, "qos": 1}]
        body = {"username": user, "client_id": user, "mountpoint": "", "topics": topics}
        return await self._hook(ACL, "auth_on_subscribe", body)

    async def _hook(self, path: str, hook: str, body: dict[str, Any]) -> bool:
        headers = {**basic(TOKEN), "vernemq-hook": f"{hook}{self.version}"}
        answer = await self._post(path, body, headers)
        assert answer in ({"result": "ok"}, {"result": {"error": "not_allowed"}})
        return answer == {"result": "ok"}


class Verne5(Verne):
    """The same for MQTT 5."""

    version = "_m5"


def basic(token: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"broker:{token}".encode()).decode()}


BROKERS: list[type[Asker]] = [Emqx, GoAuth, GoAuthForms, Verne, Verne5]


@pytest.fixture(params=BROKERS, ids=lambda kind: kind.__name__)
def broker(request: pytest.FixtureRequest, house: House) -> Asker:
    kind: type[Asker] = request.param
    return kind(house)


async def test_an_agent_comes_in_with_its_token_and_its_own_client_id_only(
    house: House, broker: Asker
) -> None:
    token = house.token("a1")
    assert await broker.logs_in("a1", token, "a1")
    assert not await broker.logs_in("a1", house.token("b2"), "a1")
    assert not await broker.logs_in("a1", house.secret("a1"), "a1")
    for client_id in ("b2", "server", "", "A1"):
        assert not await broker.logs_in("a1", token, client_id)


async def test_a_person_comes_in_with_an_api_token_and_no_agents_client_id(
    house: House, broker: Asker
) -> None:
    made, text = await house.services.tokens.create("x", Scope.READ)
    user = f"operator.{made.id}"
    assert await broker.logs_in(user, text, "my dashboard")
    assert not await broker.logs_in(user, house.admin, "my dashboard")
    for client_id in ("a1", "server"):
        assert not await broker.logs_in(user, text, client_id)


async def test_the_server_comes_in_with_its_password(house: House, broker: Asker) -> None:
    assert await broker.logs_in("server", "the password", "server")
    assert not await broker.logs_in("server", "another", "server")
    assert not await broker.logs_in("server", "the password", "a1")


@pytest.mark.parametrize(
    ("user", "password"),
    [(None, None), ("", ""), ("a1", None), (None, "x"), ("operator", "ADMIN"), ("nobody", "x"), ("a1", "é")],
)
async def test_nobody_else_comes_in(
    house: House, broker: Asker, user: str | None, password: str | None
) -> None:
    assert not await broker.logs_in(user, house.admin if password == "ADMIN" else password, "x")


async def test_who_is_revoked_is_shut_out(house: House, broker: Asker) -> None:
    made, text = await house.services.tokens.create("x", Scope.READ)
    user = f"operator.{made.id}"
    await house.services.tokens.remove(made.id)
    await house.services.agents.remove("a1", purge=False)
    assert not await broker.logs_in(user, text, "x")
    assert not await broker.subscribes(user, "pingup/v1/live/#")
    assert not await broker.logs_in("a1", house.token("a1"), "a1")
    assert not await broker.publishes("a1", "pingup/v1/up/a1/metrics")


async def test_an_expired_token_is_shut_out(house: House, broker: Asker, clock: ManualClock) -> None:
    made, text = await house.services.tokens.create("x", Scope.READ, clock.now() + timedelta(minutes=1))
    user = f"operator.{made.id}"
    assert await broker.logs_in(user, text, "x")
    clock.advance(minutes=2)
    assert not await broker.logs_in(user, text, "x")
    assert not await broker.subscribes(user, "pingup/v1/live/#")


async def test_who_may_publish_where(house: House, broker: Asker) -> None:
    made, _ = await house.services.tokens.create("x", Scope.ADMIN)
    table = {
        "a1": {"pingup/v1/up/a1/metrics"},
        "server": {"pingup/v1/down/a1/commands", "pingup/v1/live/a1/metrics", "pingup/v1/sys/status"},
        f"operator.{made.id}": set(),
        "nobody": set(),
    }
    topics = {*table["a1"], *table["server"], "pingup/v1/up/b2/metrics", "pingup/v1/other", "x", "$SYS/x"}
    for user, permitted in table.items():
        assert {topic for topic in topics if await broker.publishes(user, topic)} == permitted


async def test_who_may_subscribe_to_what(house: House, broker: Asker) -> None:
    reader, _ = await house.services.tokens.create("x", Scope.COMMAND)
    admin, _ = await house.services.tokens.create("x", Scope.ADMIN)
    table: dict[str, set[str]] = {
        "a1": {"pingup/v1/down/a1/#", "pingup/v1/down/a1/commands", "pingup/v1/sys/status"},
        "server": {"pingup/v1/up/#", "pingup/v1/up/+/metrics"},
        f"operator.{reader.id}": {"pingup/v1/live/#", "pingup/v1/sys/#", "pingup/v1/sys/status"},
        "nobody": set(),
    }
    filters = {one for own in table.values() for one in own}
    wide = {"#", "pingup/v1/+/a1/#", "pingup/v1/down/+/commands", "+/#", "$share/g/pingup/v1/down/a1/#"}
    wide |= {"pingup/v1/down/a1/#/x", "pingup/v1/down/a1/x+"}  # and what is no filter at all
    table[f"operator.{admin.id}"] = {*filters, "pingup/v1/+/a1/#", "pingup/v1/down/+/commands"}
    for user, permitted in table.items():
        assert {one for one in {*filters, *wide} if await broker.subscribes(user, one)} == permitted


async def test_vernemq_denies_a_subscription_of_which_one_filter_is_not_permitted(house: House) -> None:
    topics = [{"topic": "pingup/v1/down/a1/#", "qos": 1}, {"topic": "#", "qos": 0}]
    answer = await house.call(
        "POST",
        ACL,
        TOKEN,
        {"username": "a1", "client_id": "a1", "mountpoint": "", "topics": topics},
        {"vernemq-hook": "auth_on_subscribe_m5"},
    )
    assert answer.json == {"result": {"error": "not_allowed"}}


@pytest.mark.parametrize(("acc", "topics"), [(1, {"down"}), (2, {"up"}), (3, set())])
async def test_mosquitto_go_auth_asks_for_each_delivery_and_each_message(
    house: House, acc: int, topics: set[str]
) -> None:
    permitted = set()
    for place in ("up", "down"):
        body = {"username": "a1", "clientid": "a1", "topic": f"pingup/v1/{place}/a1/x", "acc": acc}
        if (await house.call("POST", ACL, TOKEN, body)).json["Ok"]:
            permitted.add(place)
    assert permitted == topics


async def test_emqx_is_told_when_a_token_ends(house: House, clock: ManualClock) -> None:
    ends = clock.now() + timedelta(hours=1)
    made, text = await house.services.tokens.create("x", Scope.READ, ends)
    login = {"username": f"operator.{made.id}", "password": text, "clientid": "x"}
    assert (await house.call("POST", AUTH, TOKEN, login)).json["expire_at"] == int(ends.timestamp())
    login = {"username": "a1", "password": house.token("a1"), "clientid": "a1"}
    assert "expire_at" not in (await house.call("POST", AUTH, TOKEN, login)).json


@pytest.mark.parametrize("path", [AUTH, ACL])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Digest {TOKEN}"},
        {"Authorization": "Basic §"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
        {"Authorization": "Basic " + base64.b64encode(TOKEN.encode()).decode()},
        basic(f"{TOKEN}x"),
    ],
)
async def test_without_its_token_no_broker_is_answered(
    house: House, path: str, headers: dict[str, str]
) -> None:
    answer = await house.call("POST", path, None, {"username": "a1", "topic": "x", "acc": 1}, headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_an_admins_token_is_no_brokers_token(house: House) -> None:
    assert (await house.call("POST", AUTH, house.admin, {})).status == 401


async def test_without_the_setting_there_is_nothing_to_ask(tmp_path: Path, clock: ManualClock) -> None:
    async with open_house(tmp_path, clock) as house:
        for path in (AUTH, ACL):
            assert (await house.call("POST", path, TOKEN, {})).status == 404


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        (AUTH, b"nonsense", {}),
        (AUTH, {"username": 7}, {}),
        (AUTH, {"client_id": "x"}, {"vernemq-hook": "auth_on_publish"}),
        (ACL, {"topic": "x"}, {"vernemq-hook": "auth_on_register"}),
        (ACL, {"username": "a1", "topic": "x"}, {}),
        (ACL, {"username": "a1", "action": "publish"}, {}),
        (ACL, {"username": "a1", "topic": "x", "action": "fly"}, {}),
        (ACL, {"username": "a1", "topic": "x", "acc": 8}, {}),
        (ACL, b"topic=x&acc=two", FORM),
        (ACL, b"&".join([b"a=1"] * 100), FORM),
        (ACL, b"topic=\xff&acc=1", FORM),
        (ACL, {"topics": "x"}, {"vernemq-hook": "auth_on_subscribe"}),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    house: House, path: str, body: Any, headers: dict[str, str]
) -> None:
    answer = await house.call("POST", path, TOKEN, body, headers)
    assert answer.status == 400
