"""The specification's first agents, which know nothing of MQTT: exactly their requests, against the program.

They send `JSON.stringify(payload)`, signed over just that text with the signature as the last member, and
show their secret as the bearer. They try `/api/v1/metrics/bin` first and fall back to JSON on any error, poll
for commands, and post results without a signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.journey.program import EMBEDDED, Running, serving

SECRET = "the-secret-that-an-operator-wrote-into-its-file"
LENIENT = {"PINGUP_SECURITY__SECRET_AS_BEARER": "true", "PINGUP_SECURITY__UNSIGNED_RESULTS": "true"}


class FirstAgent:
    """The agent as it was: its payloads, its headers, its order of members."""

    def __init__(self, server: Running, agent_id: str = "AGENT-001") -> None:
        self.server = server
        self.agent_id = agent_id

    async def fetch(
        self, method: str, path: str, body: bytes | None = None, media_type: str = "application/json"
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": media_type}
        async with self.server.http.request(
            method, self.server.url + path, data=body, headers=headers
        ) as answer:
            return answer.status, await answer.json(content_type=None)

    def payload(self, **members: Any) -> dict[str, Any]:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"agentId": self.agent_id, "timestamp": at, **members}

    def signed(self, payload: dict[str, Any]) -> bytes:
        text = stringify(payload)
        digest = hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest()
        return stringify({**payload, "signature": base64.b64encode(digest).decode()}).encode()

    async def send(self, path: str, payload: dict[str, Any]) -> tuple[int, Any]:
        return await self.fetch("POST", path, self.signed(payload))


def stringify(value: Any) -> str:
    """JSON.stringify: no white space, everything beyond ASCII as it is."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[FirstAgent]:
    async with serving(tmp_path, environ=LENIENT, broker=EMBEDDED) as server:
        await server.call("POST", "/api/v1/agents", {"id": "AGENT-001", "secret": SECRET}, status=201)
        yield FirstAgent(server)


async def test_their_metrics_arrive_after_the_binary_form_was_refused(agent: FirstAgent) -> None:
    payload = agent.payload(
        metrics={"cpu": 12.5, "ram": 43.2, "disk": 71.4, "latency": 8}, status="online", site="Zürich ✓"
    )
    status, _ = await agent.fetch(
        "POST", "/api/v1/metrics/bin", b"\x84\xa7agentId", "application/octet-stream"
    )
    assert status in (404, 405)
    assert await agent.send("/api/v1/metrics", payload) == (201, {"success": True})
    stored = await agent.server.call("GET", "/api/v1/metrics/AGENT-001")
    assert [(one["cpu"], one["latency"], one["status"]) for one in stored["metrics"]] == [(12.5, 8, "online")]


async def test_their_scans_arrive(agent: FirstAgent) -> None:
    hosts = [{"ip": "192.168.1.1", "latency": 2, "ports": [80, 443]}]
    payload = agent.payload(discovery={"hosts": hosts, "duration": 15230})
    assert await agent.send("/api/v1/discovery", payload) == (201, {"success": True})
    latest = await agent.server.call("GET", "/api/v1/discovery/AGENT-001/latest")
    assert latest["discovery"]["hosts"][0]["ports"] == [80, 443]


async def test_their_heartbeat_and_their_configuration_are_answered(agent: FirstAgent) -> None:
    await agent.server.call("POST", "/api/v1/config/AGENT-001", {"interval": 30})
    status, answer = await agent.fetch("GET", "/api/v1/config/AGENT-001")
    assert (status, answer["config"]) == (200, {"interval": 30})
    status, answer = await agent.fetch("POST", "/api/v1/agents/AGENT-001/heartbeat", b"{}")
    assert (status, answer["success"]) == (200, True)
    shown = await agent.server.call("GET", "/api/v1/agents/AGENT-001")
    assert shown["agent"]["status"] == "online"


async def test_their_commands_are_fetched_run_and_answered_unsigned(agent: FirstAgent) -> None:
    wish = {"agentId": "AGENT-001", "action": "restart_service", "params": {"service": "network-monitor"}}
    await agent.server.call("POST", "/api/v1/commands", wish, status=201)
    status, answer = await agent.fetch("GET", "/api/v1/commands/pending/AGENT-001")
    assert status == 200
    (command,) = answer["commands"]
    assert {"action": command["action"], "params": command["params"]} == {
        "action": "restart_service",
        "params": {"service": "network-monitor"},
    }
    path = f"/api/v1/commands/{command['commandId']}/result"
    body = stringify({"status": "completed", "result": {"output": "ok", "exitCode": 0}}).encode()
    assert await agent.fetch("POST", path, body) == (200, {"success": True})
    ended = (await agent.server.call("GET", f"/api/v1/commands/{command['commandId']}"))["command"]
    assert (ended["status"], ended["result"]["output"]) == ("completed", "ok")
    assert await agent.fetch("GET", "/api/v1/commands/pending/AGENT-001") == (200, {"commands": []})


async def test_without_the_two_settings_they_are_told_that_nobody_has_their_bearer(tmp_path: Path) -> None:
    async with serving(tmp_path, broker=EMBEDDED) as server:
        await server.call("POST", "/api/v1/agents", {"id": "AGENT-001", "secret": SECRET}, status=201)
        agent = FirstAgent(server)
        payload = agent.payload(metrics={"cpu": 1}, status="online")
        status, answer = await agent.send("/api/v1/metrics", payload)
        assert (status, answer["status"]) == (401, 401)


@pytest.mark.parametrize("setting", [*LENIENT])
async def test_each_setting_opens_its_own_door_only(tmp_path: Path, setting: str) -> None:
    async with serving(tmp_path, environ={setting: "true"}, broker=EMBEDDED) as server:
        await server.call("POST", "/api/v1/agents", {"id": "AGENT-001", "secret": SECRET}, status=201)
        command = {"agentId": "AGENT-001", "action": "ping"}
        made = (await server.call("POST", "/api/v1/commands", command, status=201))["command"]
        path = f"/api/v1/commands/{made['commandId']}/result"
        status, _ = await FirstAgent(server).fetch("POST", path, b'{"status":"completed"}')
        assert status == (403 if setting == "PINGUP_SECURITY__SECRET_AS_BEARER" else 401)
