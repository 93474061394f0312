"""Receipts on their whole road: a spool may be emptied by them, whenever the server dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import duckdb

from tests.journey.program import LIMIT, Device, serving

TOPIC = "pingup/v1/up/AGENT-001/metrics"


@asynccontextmanager
async def listening(device: Device) -> AsyncIterator[aiomqtt.Client]:
    """The device, connected, with its ear at its receipts; in the end its server may be dead."""
    with contextlib.suppress(aiomqtt.MqttError):
        async with asyncio.timeout(LIMIT), device.mqtt() as client:
            await client.subscribe(f"pingup/v1/down/{device.id}/receipts")
            yield client


def numbered(device: Device, seq: int) -> bytes:
    return device.sign(metrics={"cpu": seq}, status="online", stream="spool-1", seq=seq)


async def receipt_of(client: aiomqtt.Client, device: Device, seq: int) -> dict[str, Any]:
    """The first receipt that goes as far as `seq`, its signature checked."""
    async for message in client.messages:
        assert isinstance(message.payload, bytes)
        assert (message.qos, message.retain) == (0, False)
        receipt = device.verify(message.payload)
        if receipt["seq"] >= seq:
            return receipt
    raise AssertionError("the connection was closed")


def stored(directory: Path) -> set[float]:
    with duckdb.connect(str(directory / "analytics.duckdb"), read_only=True) as connection:
        return {cpu for (cpu,) in connection.execute("SELECT cpu FROM metrics").fetchall()}


async def test_receipts_go_on_after_kill_9_where_they_were(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with serving(data) as server:
        device = await server.register("AGENT-001")
        async with listening(device) as client:
            for seq in (1, 2, 3, 5):
                await client.publish(TOPIC, numbered(device, seq), qos=1)
            receipt = await receipt_of(client, device, 3)
            await server.kill()
    updated_at = receipt.pop("updatedAt")
    assert updated_at.endswith("Z")
    del receipt["signature"]
    assert receipt == {"agentId": "AGENT-001", "stream": "spool-1", "seq": 3}
    assert stored(data) == {1, 2, 3, 5}
    async with serving(data) as again:
        device.server = again
        (stream,) = (await again.call("GET", "/api/v1/agents/AGENT-001/gaps"))["streams"]
        assert [(gap["from"], gap["to"], gap["state"]) for gap in stream["gaps"]] == [(4, 4, "missing")]
        async with listening(device) as client:
            await client.publish(TOPIC, numbered(device, 4), qos=1)
            assert (await receipt_of(client, device, 4))["seq"] == 5
        (stream,) = (await again.call("GET", "/api/v1/agents/AGENT-001/gaps"))["streams"]
        assert (stream["seq"], stream["gaps"]) == (5, [])


async def test_everything_up_to_a_receipt_is_stored_when_the_server_is_killed_at_once(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    async with serving(data) as server:
        device = await server.register("AGENT-001")
        async with listening(device) as client:

            async def flood() -> None:
                with contextlib.suppress(aiomqtt.MqttError):
                    for seq in range(1, 100_000):
                        await client.publish(TOPIC, numbered(device, seq), qos=1)

            flooding = asyncio.create_task(flood())
            receipt = await receipt_of(client, device, 50)
            await server.kill()
            flooding.cancel()
            await asyncio.wait([flooding])
    assert set(range(1, receipt["seq"] + 1)) <= stored(data)
