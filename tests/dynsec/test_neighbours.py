"""Two Pingups and one broker: the second changes nothing of the first's, and takes nothing of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.dynsec.visitors import LIMIT, client, comes_in, control, retained
from tests.journey.program import EMBEDDED, Running, run, serving, start
from tests.mosquitto import Dynsec

pytestmark = pytest.mark.mosquitto

PASSWORD = "the-servers-password"
FREE = ("--http-port", "0")


def _urls(broker: Dynsec) -> dict[str, str]:
    return {
        "PINGUP_MQTT__URL": broker.url("server", PASSWORD),
        "PINGUP_MQTT__CONTROL_URL": broker.control_url,
    }


async def _components(server: Running) -> dict[str, Any]:
    async with server.http.get(f"{server.url}/health") as answer:
        components: dict[str, Any] = (await answer.json())["components"]
        return components


async def _until(server: Running, component: str, words: str) -> None:
    """Wait until /health says something of a component."""
    async with asyncio.timeout(LIMIT):
        while words not in str((await _components(server))[component]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_at_the_first_start_the_server_logs_in_once_it_has_an_account(
    tmp_path: Path, broker: Dynsec
) -> None:
    async with serving(tmp_path / "data", environ=_urls(broker), broker=EMBEDDED) as server:
        await _until(server, "mqtt", "'healthy'")
        ended = await server.stop()
    assert "connected to the broker" in ended.err
    assert "no connection to the broker" not in ended.err


async def test_a_second_server_stays_away_from_the_first_ones_accounts_and_session(
    tmp_path: Path, broker: Dynsec
) -> None:
    environ = _urls(broker)
    async with serving(tmp_path / "first", environ=environ, broker=EMBEDDED) as first:
        await _until(first, "mqtt", "'healthy'")
        agent = await first.register("a1")
        async with client(broker.port, "a1", agent.token) as device:
            async with serving(tmp_path / "second", environ=environ, broker=EMBEDDED) as second:
                namesake = await second.register("a1")
                await second.register("a2")
                await _until(second, "accounts", "server cannot use the broker")
                assert "another Pingup" in (await _components(second))["accounts"]["detail"]
                assert (await _components(second))["mqtt"]["status"] == "unhealthy"
                assert not await comes_in(broker.port, "a1", namesake.token)
                await device.publish("pingup/v1/up/a1/metrics", agent.sample(1), qos=1)
                ended = await second.stop()
            assert "connected to the broker" not in ended.err
        assert (await _components(first))["mqtt"]["status"] == "healthy"
        assert await comes_in(broker.port, "a1", agent.token)
        assert "connected to the broker" in (stopped := (await first.stop()).err)
        assert "took the session over" not in stopped


async def test_the_demo_leaves_a_broker_of_another_pingup_as_it_was(tmp_path: Path, broker: Dynsec) -> None:
    environ = _urls(broker)
    async with serving(tmp_path / "first", environ=environ, broker=EMBEDDED) as first:
        agent = await first.register("demo-gateway")
        assert (await first.stop()).code == 0
    before = await control(broker, {"command": "listClients", "verbose": True})
    ended = await run("demo", *FREE, "--duration", "60", environ=environ)
    assert (ended.code, ended.out) == (1, "")
    assert "server cannot use the broker" in ended.err
    assert "Traceback" not in ended.err
    assert await control(broker, {"command": "listClients", "verbose": True}) == before
    assert await comes_in(broker.port, "demo-gateway", agent.token)


async def test_the_demo_takes_away_the_accounts_that_it_made(broker: Dynsec) -> None:
    process = await start("demo", *FREE, environ=_urls(broker))
    try:
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT):
            while b"demo-greenhouse  cpu" not in (line := await process.stdout.readline()):
                assert line, "the demo has ended"
    finally:
        process.terminate()
        async with asyncio.timeout(LIMIT):
            _, err = await process.communicate()
    assert (process.returncode, err.decode().count("Traceback")) == (0, 0), err.decode()
    (answer,) = await control(broker, {"command": "listClients"})
    assert answer["data"] == {"totalCount": 1, "clients": ["admin"]}
    assert await retained(broker) == {"pingup/v1/sys/status"}
