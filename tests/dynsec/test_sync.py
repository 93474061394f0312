"""`pingup broker sync` as a user types it, into a real Mosquitto with dynamic security."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.dynsec.visitors import LIMIT, comes_in
from tests.journey.program import EMBEDDED, Ended, Running, run, serving
from tests.mosquitto import HOST, Dynsec, free_port

pytestmark = pytest.mark.mosquitto

PASSWORD = "the-servers-password"
_NOTHING: dict[str, list[str]] = {"created": [], "changed": [], "removed": [], "unsettled": []}
# RFC 8032, section 7.1, test 1.
PUBLIC_KEY = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def _urls(broker: Dynsec, password: str = PASSWORD) -> dict[str, str]:
    return {
        "PINGUP_MQTT__URL": broker.url("server", password),
        "PINGUP_MQTT__CONTROL_URL": broker.control_url,
    }


async def _sync(data: Path, environ: dict[str, str], *flags: str) -> Ended:
    return await run("broker", "sync", "--data-dir", str(data), *flags, environ=environ)


async def _synced(data: Path, environ: dict[str, str]) -> dict[str, Any]:
    ended = await _sync(data, environ, "--json")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    done: dict[str, Any] = json.loads(ended.out)
    return done


async def _register(server: Running, **members: str) -> str:
    answer = await server.call("POST", "/api/v1/agents", members, status=201)
    return str(answer["credentials"]["token"])


async def _make_token(server: Running) -> tuple[str, str]:
    answer = await server.call("POST", "/api/v1/tokens", {"name": "x", "scope": "read"}, status=201)
    return f"operator.{answer['id']}", answer["token"]


async def _lead_a_life(data: Path) -> dict[str, str]:
    """A server's time before there was a broker elsewhere: passwords by user name, also the lost one."""
    async with serving(data, broker=EMBEDDED) as server:
        user, text = await _make_token(server)
        passwords = {
            "a1": await _register(server, id="a1"),
            "b2": await _register(server, id="b2", publicKey=PUBLIC_KEY),
            "operator.tok_admin": server.admin_token,
            user: text,
        }
        assert (await server.stop()).code == 0
    return passwords


async def test_a_fresh_broker_gets_to_know_everybody_whose_password_is_known(
    data: Path, broker: Dynsec
) -> None:
    passwords = await _lead_a_life(data)
    known = {"a1", "b2", "operator.tok_admin"}
    (lost,) = set(passwords) - known
    first = await _sync(data, _urls(broker))
    assert first.code == 0, first.err
    assert set(first.out.splitlines()) == {f"created {name}" for name in ("server", *known)}
    assert first.err.startswith(f"pingup: {lost} cannot use the broker: nobody knows its password any more")
    for user, password in {**passwords, "server": PASSWORD}.items():
        assert await comes_in(broker.port, user, password) == (user != lost)
    second = await _sync(data, _urls(broker))
    assert (second.code, second.out) == (0, "nothing to do\n")


async def test_what_changed_is_changed_and_what_is_gone_removed(data: Path, broker: Dynsec) -> None:
    await _lead_a_life(data)
    await _synced(data, _urls(broker))
    async with serving(data, broker=EMBEDDED) as server:
        await server.call("DELETE", "/api/v1/agents/a1")
    done = await _synced(data, _urls(broker, "another-password"))
    assert (done["created"], done["changed"], done["removed"]) == ([], ["server"], ["a1"])
    (unsettled,) = done["unsettled"]
    assert unsettled["obstacle"] == "password_unknown"
    assert "make a new token" in unsettled["detail"]
    assert await comes_in(broker.port, "server", "another-password")
    assert not await comes_in(broker.port, "server", PASSWORD)


async def test_beside_a_running_server_that_does_it_by_itself_there_is_nothing_to_do(
    data: Path, broker: Dynsec
) -> None:
    admin = "an-admin-token-of-32-characters-or-more"
    async with serving(
        data, environ={**_urls(broker), "PINGUP_ADMIN_TOKEN": admin}, broker=EMBEDDED
    ) as server:
        passwords = dict([await _make_token(server)])
        passwords["a1"] = await _register(server, id="a1")
        passwords["operator.environment"] = admin
        for user, password in passwords.items():
            assert await comes_in(broker.port, user, password)
        # It knows nothing of the token in the server's environment, and leaves that account alone.
        assert await _synced(data, _urls(broker)) == _NOTHING
        for user, password in passwords.items():
            assert await comes_in(broker.port, user, password)


async def test_while_the_broker_is_away_agents_are_registered_and_health_says_what_is_wrong(
    data: Path,
) -> None:
    environ = {
        "PINGUP_MQTT__URL": f"mqtt://server:x@{HOST}:{free_port()}",
        "PINGUP_MQTT__CONTROL_URL": f"mqtt://admin:x@{HOST}:{free_port()}",
    }
    async with serving(data, environ=environ, broker=EMBEDDED) as server:
        await _register(server, id="a1")
        async with asyncio.timeout(LIMIT):
            while True:
                health = await server.call("GET", "/health", status=503)
                found = health["components"]["accounts"]
                if "connection refused" in found["detail"]:
                    break
        assert found["status"] == "degraded"


@pytest.mark.parametrize(
    ("control", "code", "words"),
    [
        ("mqtt://admin:wrong@{address}", 4, "not authorised"),
        ("mqtt://{address}", 4, "not authorised"),
        (f"mqtt://admin:x@{HOST}:1", 5, "connection refused"),
        ("http://admin:x@{address}", 2, "control_url is no address like mqtt://"),
        ("", 2, "control_url is no address like mqtt://"),
        (None, 2, "mqtt.control_url (--control-url) must name the broker and an administrator"),
    ],
)
async def test_what_goes_wrong_is_one_line_and_an_exit_code(
    data: Path, broker: Dynsec, control: str | None, code: int, words: str
) -> None:
    async with serving(data, broker=EMBEDDED):
        pass
    environ = _urls(broker)
    del environ["PINGUP_MQTT__CONTROL_URL"]
    flags = [] if control is None else ["--control-url", control.format(address=f"{HOST}:{broker.port}")]
    ended = await _sync(data, environ, *flags)
    assert ended.code == code
    assert ended.out == ""
    assert words in ended.err
    assert ended.err.count("\n") == 1


async def test_without_a_servers_data_there_is_nobody_to_bring(data: Path, broker: Dynsec) -> None:
    ended = await _sync(data, _urls(broker))
    assert (ended.code, ended.out) == (1, "")
    assert "there is no server's data in" in ended.err
    assert not _is_there(data)


def _is_there(path: Path) -> bool:
    return path.exists()
