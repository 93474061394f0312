"""Whole roads of telemetry: a stranger's client in, DuckDB and REST out, with processes that die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import duckdb

from tests.devices import sign
from tests.journey.conftest import OVER_BOTH
from tests.journey.program import EMBEDDED, LIMIT, Device, Running, serving

HOSTS = [{"ip": "192.168.1.1", "latency": 2, "ports": [80, 443]}]


def stored(directory: Path, agent_id: str) -> list[float]:
    """The cpu values of an agent in the file itself, in their order."""
    with duckdb.connect(str(directory / "analytics.duckdb"), read_only=True) as connection:
        rows = connection.execute(
            "SELECT cpu FROM metrics WHERE agent_id = ? ORDER BY timestamp", [agent_id]
        ).fetchall()
    return [cpu for (cpu,) in rows]


@OVER_BOTH
async def test_a_sample_published_by_a_strangers_client_is_in_the_history(server: Running) -> None:
    device = await server.register("AGENT-001")
    message = device.sample(12.5, ram=43.2, disk=71.4, latency=8, temperature=21.25)
    await device.publish("metrics", message)
    (sample,) = await device.history(1)
    timestamp = sample.pop("timestamp")
    assert timestamp.endswith("Z")
    assert sample == {
        "cpu": 12.5,
        "ram": 43.2,
        "disk": 71.4,
        "latency": 8,
        "temperature": 21.25,
        "status": "online",
    }


async def test_a_scan_published_by_mqtt_is_the_latest_discovery(server: Running) -> None:
    device = await server.register("AGENT-001")
    await device.publish("discovery", device.sign(discovery={"hosts": HOSTS, "duration": 15230}))

    async def read_latest() -> Any:
        return (await server.call("GET", "/api/v1/discovery/AGENT-001/latest"))["discovery"]

    latest = await server.soon(read_latest, bool)
    assert (latest["duration"], latest["hosts"]) == (15230, HOSTS)


async def test_the_same_sample_by_mqtt_and_by_rest_is_stored_once(server: Running) -> None:
    device = await server.register("AGENT-001")
    message = device.sample()
    await device.publish("metrics", message, message)
    await device.history(1)
    headers = {"Authorization": f"Bearer {device.token}", "Content-Type": "application/json"}
    async with server.http.post(server.url + "/api/v1/metrics", data=message, headers=headers) as answer:
        assert (answer.status, (await answer.json())["duplicate"]) == (200, True)
    await device.history(1)


async def test_a_batch_is_stored_sample_by_sample(server: Running) -> None:
    device = await server.register("AGENT-001")
    samples = [
        {"timestamp": device.next_moment(), "metrics": {"cpu": number}, "status": "online"}
        for number in range(100)
    ]
    await device.publish("metrics", device.sign(samples=samples))
    assert sorted(sample["cpu"] for sample in await device.history(100)) == list(range(100))


async def flood(device: Device, on_acknowledged: Callable[[int], Awaitable[None]]) -> list[float]:
    """Publish until the server goes away; the cpu values that were acknowledged."""
    acknowledged: list[float] = []

    async def publish(number: float, client: aiomqtt.Client) -> None:
        await client.publish(f"pingup/v1/up/{device.id}/metrics", device.sample(number), qos=1)
        acknowledged.append(number)
        await on_acknowledged(len(acknowledged))

    async with asyncio.timeout(LIMIT):
        with contextlib.suppress(aiomqtt.MqttError):
            async with device.mqtt(timeout=2) as client:
                numbers = [publish(float(number), client) for number in range(1000)]
                await asyncio.gather(*numbers, return_exceptions=True)
    return acknowledged


async def test_what_was_acknowledged_is_stored_once_after_kill_9_in_the_middle(tmp_path: Path) -> None:
    async with serving(tmp_path, broker=EMBEDDED) as server:
        device = await server.register("AGENT-001")

        async def kill_in_the_middle(count: int) -> None:
            if count == 300:
                await server.kill()

        acknowledged = await flood(device, kill_in_the_middle)
    found = stored(tmp_path, "AGENT-001")
    assert 300 <= len(acknowledged) < 1000
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))
    async with serving(tmp_path, broker=EMBEDDED) as again:
        device.server = again
        assert sorted(sample["cpu"] for sample in await device.history(len(found))) == sorted(found)


async def test_a_stop_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    async with serving(tmp_path, broker=EMBEDDED) as server:
        device = await server.register("AGENT-001")

        async def stop_in_the_middle(count: int) -> None:
            if count == 100:
                server.process.send_signal(signal.SIGTERM)

        acknowledged = await flood(device, stop_in_the_middle)
        async with asyncio.timeout(LIMIT):
            assert await server.process.wait() == 0
    assert len(acknowledged) >= 100
    assert set(acknowledged) <= set(stored(tmp_path, "AGENT-001"))


BAD_BODIES: dict[str, str] = {
    "malformed": "{",
    "not an object": "[]",
    "NaN": '{HEAD,"metrics":{"cpu":NaN},"status":"online"}',
    "1e999": '{HEAD,"metrics":{"cpu":1e999},"status":"online"}',
    "100 digits": '{HEAD,"metrics":{"cpu":' + "9" * 100 + '},"status":"online"}',
    "latency beyond its column": '{HEAD,"metrics":{"latency":3000000000},"status":"online"}',
    "wrong type": '{HEAD,"metrics":{"cpu":"high"},"status":"online"}',
    "2,000 deep": '{HEAD,"metrics":{"cpu":1},"status":"online","x":' + "[" * 2000 + "]" * 2000 + "}",
    "oversized": '{HEAD,"metrics":{"cpu":1},"status":"online","x":"' + "y" * 300_000 + '"}',
    "far future": '{"agentId":"AGENT-001","timestamp":"2199-01-01T00:00:00Z",TAIL}',
    "another agent": '{"agentId":"B","timestamp":"NOW",TAIL}',
    "no metrics": '{HEAD,"status":"online"}',
}


def bad_messages(device: Device) -> dict[str, bytes]:
    """Rightly signed nonsense, and good messages that are wrongly signed."""
    now = device.next_moment()
    head = f'"agentId":"AGENT-001","timestamp":"{now}"'
    tail = '"metrics":{"cpu":1},"status":"online"'
    bodies = {
        name: text.replace("HEAD", head).replace("TAIL", tail).replace("NOW", now)
        for name, text in BAD_BODIES.items()
    }
    good = json.dumps({"agentId": "AGENT-001", "timestamp": now, "metrics": {"cpu": 1}, "status": "online"})
    nested = sign(good, device.secret).decode()
    return {
        **{name: sign(body, device.secret) for name, body in bodies.items()},
        "unsigned": good.encode(),
        "wrongly signed": sign(good, "another-secret-of-at-least-32-characters"),
        "signature in the wrong place": f'{{"x":{nested},"y":1}}'.encode(),
        "empty": b"",
    }


async def test_bad_messages_by_mqtt_are_acknowledged_counted_and_never_stored(server: Running) -> None:
    device = await server.register("AGENT-001")
    bad = bad_messages(device)
    rejects: list[dict[str, Any]] = []
    async with (
        asyncio.timeout(LIMIT),
        await server.watcher() as watching,
        device.mqtt() as client,
    ):
        await watching.subscribe("pingup/v1/sys/rejects")
        for message in bad.values():
            await client.publish("pingup/v1/up/AGENT-001/metrics", message, qos=1)
        await client.publish("pingup/v1/up/AGENT-001/nonsense", device.sample(), qos=1)
        await client.publish("pingup/v1/up/AGENT-001/metrics", device.sample(77), qos=1)
        async for shown in watching.messages:
            assert isinstance(shown.payload, bytes)
            rejects.append(json.loads(shown.payload))
            if len(rejects) == len(bad) + 1:
                break
    assert {reject["agentId"] for reject in rejects} == {"AGENT-001"}
    assert all(reject["reason"] and reject["topic"] and reject["at"] for reject in rejects)
    assert [sample["cpu"] for sample in await device.history(1)] == [77]


async def test_bad_messages_by_rest_get_a_problem_document(server: Running) -> None:
    device = await server.register("AGENT-001")
    headers = {"Authorization": f"Bearer {device.token}", "Content-Type": "application/json"}
    for name, message in bad_messages(device).items():
        async with server.http.post(server.url + "/api/v1/metrics", data=message, headers=headers) as answer:
            assert answer.status in (400, 403, 413), f"{name}: {answer.status}"
            assert answer.content_type == "application/problem+json", name
            problem = await answer.json(content_type=None)
            assert problem["status"] == answer.status
            assert problem["detail"], name
    message = device.sample(77)
    async with server.http.post(server.url + "/api/v1/metrics", data=message, headers=headers) as answer:
        assert answer.status == 201
    assert [sample["cpu"] for sample in await device.history(1)] == [77]
    ended = await server.stop()
    assert ended.code == 0
    assert "Traceback" not in ended.err


@OVER_BOTH
async def test_live_values_reach_a_person_with_a_read_token(server: Running) -> None:
    device = await server.register("AGENT-001")
    async with asyncio.timeout(LIMIT), await server.watcher("read") as watching:
        await watching.subscribe([(f"pingup/v1/{below}", 0) for below in ("#", "live/#", "sys/#")])
        await device.publish("metrics", device.sample(12.5))
        async for message in watching.messages:
            assert str(message.topic).startswith(("pingup/v1/live/", "pingup/v1/sys/"))
            if str(message.topic) == "pingup/v1/live/AGENT-001/metrics":
                assert isinstance(message.payload, bytes)
                assert json.loads(message.payload)["cpu"] == 12.5
                break
