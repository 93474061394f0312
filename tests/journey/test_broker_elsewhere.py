"""A server whose broker is another program: what its users see when that is away, and when it comes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.contract.external_rig import a_mosquitto, device, hear, still_queued
from tests.devices import Device
from tests.journey.program import EMBEDDED, LIMIT, Running, serving
from tests.mosquitto import HOST

pytestmark = pytest.mark.mosquitto

PASSWORD = "nobody-sees-this"


def url(port: int) -> str:
    return f"mqtt://server:{PASSWORD}@{HOST}:{port}"


async def health(server: Running) -> tuple[int, dict[str, Any]]:
    async with server.http.get(f"{server.url}/health") as answer:
        return answer.status, (await answer.json())["components"]["mqtt"]


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT):
        while not await is_so():  # noqa: ASYNC110 - REST is asked, nobody tells
            await asyncio.sleep(0.01)


async def is_healthy(server: Running) -> bool:
    return (await health(server))[0] == 200


async def register(server: Running, agent_id: str) -> Device:
    answer = await server.call("POST", "/api/v1/agents", {"id": agent_id}, status=201)
    return Device(agent_id, answer["credentials"]["secret"], answer["credentials"]["token"])


async def order(server: Running, agent_id: str) -> str:
    body = {"agentId": agent_id, "action": "ping"}
    answer = await server.call("POST", "/api/v1/commands", body, status=201)
    return str(answer["command"]["commandId"])


def kept_session() -> dict[str, Any]:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho has no types here
    properties.SessionExpiryInterval = 3600
    return {"clean_start": False, "properties": properties}


async def test_the_server_starts_without_its_broker_and_finds_it_when_it_comes(tmp_path: Path) -> None:
    async with a_mosquitto(tmp_path / "mosquitto") as mosquitto:
        port = mosquitto.port
        async with device(port, "A", **kept_session()) as agent:
            await agent.subscribe("pingup/v1/down/A/commands", qos=1)
    async with serving(tmp_path / "data", "--mqtt-url", url(port), broker=EMBEDDED) as server:
        assert (server.mqtt_host, server.mqtt_port) == (HOST, port)
        await register(server, "A")
        command_id = await order(server, "A")

        async def is_told() -> bool:
            status, component = await health(server)
            assert (status, component["status"]) == (503, "unhealthy")
            return bool(component["detail"] == f"cannot connect to {HOST}:{port}: connection refused")

        await until(is_told)
        async with a_mosquitto(tmp_path / "mosquitto", port=port):
            await until(lambda: is_healthy(server))
            # Not in the next round of a minute, but as soon as there is a connection.
            async with device(port, "A", **kept_session()) as agent:
                ((_, payload, _),) = await hear(agent, 1)
                assert command_id in payload.decode()
        ended = await server.stop()
    assert ended.code == 0
    assert "connected to the broker" in ended.err
    assert PASSWORD not in ended.err + ended.out


async def test_a_stopped_server_has_acknowledged_what_it_has_stored(tmp_path: Path) -> None:
    async with a_mosquitto(tmp_path / "mosquitto") as mosquitto:
        environ = {"PINGUP_MQTT__URL": url(mosquitto.port)}
        async with serving(tmp_path / "data", environ=environ, broker=EMBEDDED) as server:
            await until(lambda: is_healthy(server))
            agent = await register(server, "A")
            async with device(mosquitto.port, "A") as client:
                for number in range(200):
                    await client.publish("pingup/v1/up/A/metrics", agent.sample(number), qos=1)

            async def is_stored() -> bool:
                answer = await server.call("GET", "/api/v1/metrics/A?limit=1000")
                return len(answer["metrics"]) == 200

            await until(is_stored)
            assert (await server.stop()).code == 0
        assert await still_queued(mosquitto.port) == []
        async with device(mosquitto.port, "person") as person:
            await person.subscribe("pingup/v1/sys/status", qos=1)
            assert b'"offline"' in (await hear(person, 1))[0][1]


async def test_rest_answers_while_the_broker_accepts_nobody(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):
            port = listener.getsockname()[1]
            async with serving(tmp_path / "data", "--mqtt-url", url(port), broker=EMBEDDED) as server:
                await register(server, "A")
                await order(server, "A")
                assert (await health(server))[0] == 503
                assert (await server.stop()).code == 0
