"""People and devices at the door of a broker."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiomqtt
import pytest

from pingup.brokers.dynsec.wire import ANSWERS, REQUESTS
from pingup.brokers.session import Credentials, Options, at_once, connect
from pingup.errors import Unavailable
from tests.mosquitto import HOST, Dynsec

LIMIT = 20.0  # seconds that anything may take before a test gives up


def client(
    port: int, user: str, password: str | None, client_id: str | None = None, **options: Any
) -> aiomqtt.Client:
    return aiomqtt.Client(
        *(HOST, port),
        identifier=client_id or user,
        username=user,
        password=password,
        protocol=aiomqtt.ProtocolVersion.V5,
        timeout=LIMIT,
        **options,
    )


async def comes_in(port: int, user: str, password: str | None, client_id: str | None = None) -> bool:
    """Whether the broker accepts a connection. (aiomqtt leaves a refused one's socket open for a while.)"""
    options = Options(
        host=HOST, port=port, client_id=client_id or user, credentials=Credentials(user, password)
    )
    try:
        async with connect(options, at_once):
            return True
    except Unavailable:
        return False


async def until_disconnected(connection: aiomqtt.Client) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with asyncio.timeout(LIMIT):
            await anext(aiter(connection.messages))


async def retained(broker: Dynsec) -> set[str]:
    """The topics of ours on which something is left, as the broker's administrator sees them."""
    found: set[str] = set()
    async with asyncio.timeout(LIMIT), client(broker.port, broker.admin, broker.password) as admin:
        await admin.subscribe([("pingup/#", 1), (ANSWERS, 1)])
        await admin.publish(REQUESTS, json.dumps({"commands": [{"command": "listRoles"}]}))
        async for message in admin.messages:
            if message.topic.value == ANSWERS:
                return found
            found.add(message.topic.value)
    raise AssertionError("the connection ended")


async def control(broker: Dynsec, *commands: dict[str, object]) -> list[dict[str, object]]:
    """What another administrator does, who knows nothing of us."""
    async with (
        asyncio.timeout(LIMIT),
        aiomqtt.Client(
            HOST, broker.port, username=broker.admin, password=broker.password, timeout=LIMIT
        ) as admin,
    ):
        await admin.subscribe(ANSWERS)
        await admin.publish(REQUESTS, json.dumps({"commands": commands}))
        message = await anext(aiter(admin.messages))
    assert isinstance(message.payload, bytes)
    responses: list[dict[str, object]] = json.loads(message.payload)["responses"]
    return responses
