"""Whole roads of commands and configurations: by REST in, signed to the device, and back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from tests.journey.conftest import OVER_BOTH
from tests.journey.program import EMBEDDED, LIMIT, Device, Running, serving, start


async def order(server: Running, agent_id: str, action: str = "ping", **members: Any) -> dict[str, Any]:
    body = {"agentId": agent_id, "action": action, **members}
    command: dict[str, Any] = (await server.call("POST", "/api/v1/commands", body, status=201))["command"]
    return command


async def ended(server: Running, command_id: str, wanted: str = "completed") -> dict[str, Any]:
    """Wait until a command is in the wanted state, with a limit."""
    async with asyncio.timeout(LIMIT), await server.watcher() as watching:
        await watching.subscribe("pingup/v1/live/+/commands")
        while True:
            answer = await server.call("GET", f"/api/v1/commands/{command_id}")
            command: dict[str, Any] = answer["command"]
            if command["status"] == wanted:
                return command
            await anext(watching.messages)


async def agent_is(server: Running, agent_id: str, wanted: str) -> None:
    """Check an agent's status."""

    async def read() -> str:
        status: str = (await server.call("GET", f"/api/v1/agents/{agent_id}"))["agent"]["status"]
        return status

    assert await server.soon(read, lambda status: status == wanted) == wanted


async def read_report(server: Running, agent_id: str) -> dict[str, Any] | None:
    report: dict[str, Any] | None = (await server.call("GET", f"/api/v1/config/{agent_id}"))["reported"]
    return report


@asynccontextmanager
async def listening(device: Device, **options: Any) -> AsyncIterator[aiomqtt.Client]:
    async with asyncio.timeout(LIMIT), device.mqtt(**options) as client:
        await client.subscribe(f"pingup/v1/down/{device.id}/#", qos=1)
        if device.server.broker != EMBEDDED:
            # A broker outside does not tell who subscribes: the server learns it from the birth.
            birth = device.sign(session="s", status="online", interval=3600)
            await client.publish(f"pingup/v1/up/{device.id}/status", birth, qos=1)
        yield client


async def received(device: Device, client: aiomqtt.Client, last_level: str) -> dict[str, Any]:
    async for message in client.messages:
        if message.topic.value == f"pingup/v1/down/{device.id}/{last_level}":
            assert isinstance(message.payload, bytes)
            assert last_level == "config" or not message.retain
            return device.verify(message.payload)
    raise AssertionError("the connection ended")


def break_connection(client: aiomqtt.Client) -> None:
    """End the connection without a goodbye, so that the will goes out."""
    connection = client._client.socket()
    assert isinstance(connection, socket.socket)
    connection.shutdown(socket.SHUT_RDWR)


async def test_a_command_reaches_a_connected_device_and_its_result_comes_back(server: Running) -> None:
    device = await server.register("AGENT-001")
    async with listening(device) as client:
        command = await order(server, "AGENT-001", "restart_service", params={"service": "x"})
        got = await received(device, client, "commands")
        assert (got["commandId"], got["action"], got["params"]) == (
            command["commandId"],
            "restart_service",
            {"service": "x"},
        )
        assert "timestamp" not in got
        for members in (
            {"status": "acknowledged"},
            {"status": "completed", "result": {"took": 3}},
        ):
            message = device.sign(commandId=got["commandId"], **members)
            await client.publish("pingup/v1/up/AGENT-001/results", message, qos=1)
    kept = await ended(server, command["commandId"])
    assert kept["result"] == {"took": 3}
    steps = [change["status"] for change in kept["history"]]
    assert steps[0] == "pending"
    assert steps[-2:] == ["acknowledged", "completed"]


async def test_a_command_waits_for_a_device_that_is_away(server: Running) -> None:
    device = await server.register("AGENT-001")
    command = await order(server, "AGENT-001")
    async with listening(device) as client:
        assert (await received(device, client, "commands"))["commandId"] == command["commandId"]


async def test_a_command_comes_again_until_it_is_answered(server: Running) -> None:
    device = await server.register("AGENT-001")
    command = await order(server, "AGENT-001")
    for _ in range(2):
        async with listening(device) as client:
            assert (await received(device, client, "commands"))["commandId"] == command["commandId"]
    message = device.sign(commandId=command["commandId"], status="rejected", result={"reason": "no"})
    await device.publish("results", message)
    assert (await ended(server, command["commandId"], "rejected"))["result"] == {"reason": "no"}


async def test_a_command_survives_kill_9_of_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        device = await server.register("AGENT-001")
        command = await order(server, "AGENT-001")
        await server.kill()
    async with serving(tmp_path) as again:
        device.server = again
        async with listening(device) as client:
            assert (await received(device, client, "commands"))["commandId"] == command["commandId"]


async def test_a_device_without_mqtt_fetches_its_commands_and_answers_by_rest(server: Running) -> None:
    device = await server.register("AGENT-001")
    command_id = (await order(server, "AGENT-001", params={"x": 1}))["commandId"]
    path = "/api/v1/commands/pending/AGENT-001"
    (pending,) = (await server.call("GET", path, token=device.token))["commands"]
    whole = f'{pending["signed"][:-1]},"signature":"{pending["signature"]}"}}'
    assert device.verify(whole.encode())["commandId"] == pending["commandId"] == command_id
    headers = {"Authorization": f"Bearer {device.token}", "Content-Type": "application/json"}
    message = device.sign(commandId=command_id, status="completed", result="done")
    url = f"{server.url}/api/v1/commands/{command_id}/result"
    for _ in range(2):
        async with server.http.post(url, data=message, headers=headers) as answer:
            assert answer.status == 200
    other = device.sign(commandId=command_id, status="failed")
    async with server.http.post(url, data=other, headers=headers) as answer:
        assert answer.status == 409
    assert (await ended(server, command_id))["result"] == "done"
    assert (await server.call("GET", path, token=device.token))["commands"] == []


async def test_a_configuration_is_retained_for_a_device_that_comes_later(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        device = await server.register("AGENT-001")
        answer = await server.call("POST", "/api/v1/config/AGENT-001", {"interval": 5})
        assert (answer["version"], answer["config"], answer["reported"]) == (1, {"interval": 5}, None)
        async with listening(device) as client:
            got = await received(device, client, "config")
            assert (got["version"], got["config"]) == (1, {"interval": 5})
            message = device.sign(version=1, applied=False, error="too often")
            await client.publish("pingup/v1/up/AGENT-001/config", message, qos=1)
        reported = await server.soon(lambda: read_report(server, "AGENT-001"), bool)
        assert reported is not None
        assert (reported["version"], reported["applied"], reported["error"]) == (1, False, "too often")
        await server.stop()
    async with serving(tmp_path) as again:
        device.server = again
        async with listening(device) as client:
            assert (await received(device, client, "config"))["version"] == 1


async def test_birth_and_will_show_in_rest_and_live(server: Running) -> None:
    device = await server.register("AGENT-001")
    will = aiomqtt.Will(
        "pingup/v1/up/AGENT-001/status", device.sign(session="s1", status="offline"), qos=1, retain=True
    )
    async with asyncio.timeout(LIMIT), await server.watcher() as watching:
        await watching.subscribe("pingup/v1/live/AGENT-001/presence")
        with contextlib.suppress(aiomqtt.MqttError):
            async with device.mqtt(will=will) as client:
                birth = device.sign(session="s1", status="online", interval=10)
                await client.publish("pingup/v1/up/AGENT-001/status", birth, qos=1, retain=True)
                await agent_is(server, "AGENT-001", "online")
                break_connection(client)
        shown: list[str] = []
        while shown[-2:] != ["online", "offline"]:
            message = await anext(watching.messages)
            assert isinstance(message.payload, bytes)
            shown.append(json.loads(message.payload)["status"])
    await agent_is(server, "AGENT-001", "offline")


async def test_a_deleted_device_is_cut_off_and_can_come_back_as_new(server: Running) -> None:
    device = await server.register("AGENT-001")
    await device.publish("metrics", device.sample())
    await device.history(1)

    async def stay_until_cut_off() -> None:
        async with asyncio.timeout(LIMIT), device.mqtt() as client:
            await server.call("DELETE", "/api/v1/agents/AGENT-001")
            await anext(client.messages)

    with pytest.raises(aiomqtt.MqttError):
        await stay_until_cut_off()
    await server.call("GET", "/api/v1/agents/AGENT-001", status=404)
    await device.history(1)
    again = await server.register("AGENT-001")
    await again.publish("metrics", again.sample(2))
    await again.history(2)


@OVER_BOTH
async def test_our_own_agent_takes_commands_and_reports(server: Running, tmp_path: Path) -> None:
    device = await server.register("AGENT-001")
    secret = tmp_path / "secret"
    secret.write_text(device.secret)
    secret.chmod(0o600)
    process = await start(
        *("agent", "run", "--id", "AGENT-001", "--secret-file", str(secret), "--interval", "0.2"),
        *("--url", f"mqtt://127.0.0.1:{server.mqtt_port}", "--data-dir", str(tmp_path / "agent")),
    )
    try:
        command = await order(server, "AGENT-001")
        kept = await ended(server, command["commandId"])
        assert kept["result"]["pong"] is True
        steps = [change["status"] for change in kept["history"]]
        assert steps[-3:] == ["acknowledged", "running", "completed"]
        async with asyncio.timeout(LIMIT), await server.watcher() as watching:
            await watching.subscribe("pingup/v1/live/AGENT-001/metrics")
            await anext(watching.messages)
        answer = await server.call("GET", "/api/v1/metrics/AGENT-001")
        sample = answer["metrics"][0]
        assert all(0 <= sample[name] <= 100 for name in ("cpu", "ram", "disk"))
        assert sample["latency"] is not None
    finally:
        process.terminate()
        async with asyncio.timeout(LIMIT):
            assert await process.wait() == 0
            await process.communicate()
    await agent_is(server, "AGENT-001", "offline")
