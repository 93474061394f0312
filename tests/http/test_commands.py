"""Commands over REST: made by operators, fetched signed, answered by their agent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pingup import signing
from pingup.clock import rfc3339
from pingup.settings import SecuritySettings
from tests.conftest import ManualClock
from tests.http.house import FREE_PORT, Answer, House, open_house, shared_server


@pytest.fixture
async def lenient(tmp_path: Path, clock: ManualClock) -> AsyncIterator[House]:
    """A server that also takes what the specification's first agents send."""
    security = SecuritySettings(secret_as_bearer=True, unsigned_results=True)
    settings = msgspec.structs.replace(FREE_PORT, security=security)
    async with open_house(tmp_path, clock, settings) as house:
        yield house


async def make(house: House, agent_id: str = "a1", **members: Any) -> str:
    body = {"agentId": agent_id, "action": "ping", **members}
    answer = await house.call("POST", "/api/v1/commands", house.command, body)
    assert answer.status == 201, answer.body
    command_id: str = answer.json["command"]["commandId"]
    return command_id


async def report(house: House, command_id: str, status: str, agent_id: str = "a1", **members: Any) -> Answer:
    message = {
        "agentId": agent_id,
        "timestamp": rfc3339(house.clock.now()),
        "commandId": command_id,
        "status": status,
        **members,
    }
    path = f"/api/v1/commands/{command_id}/result"
    return await house.send(path, house.sign(message, agent_id), agent_id)


async def shown(house: House, command_id: str) -> dict[str, Any]:
    command: dict[str, Any] = (await house.get(f"/api/v1/commands/{command_id}")).json["command"]
    return command


async def test_a_command_is_made_fetched_signed_run_and_answered(house: House) -> None:
    body = {"agentId": "a1", "action": "restart_service", "params": {"service": "nginx"}, "ttl": "5m"}
    made = await house.call("POST", "/api/v1/commands", house.command, body)
    command = made.json["command"]
    assert made.status == 201
    assert made.headers["Location"] == f"/api/v1/commands/{command['commandId']}"
    assert (command["status"], command["expiresAt"]) == ("pending", "2026-02-25T10:05:00Z")

    fetched = await house.get("/api/v1/commands/pending/a1", house.token("a1"))
    [waiting] = fetched.json["commands"]
    expected = signing.hmac_signature(house.secret("a1"), waiting["signed"].encode()).decode()
    assert waiting["signature"] == expected
    signed = json.loads(waiting["signed"])
    assert {name: signed[name] for name in ("commandId", "action", "params", "issuedAt", "expiresAt")} == {
        name: waiting[name] for name in ("commandId", "action", "params", "issuedAt", "expiresAt")
    }
    assert {"status", "createdAt"} <= set(waiting)

    house.clock.advance(seconds=1)
    for status in ("acknowledged", "running"):
        assert (await report(house, command["commandId"], status)).json == {"success": True}
    done = await report(house, command["commandId"], "completed", result={"pid": 7, "ok": True})
    assert (done.status, done.json) == (200, {"success": True})

    command = await shown(house, command["commandId"])
    assert (command["status"], command["result"]) == ("completed", {"pid": 7, "ok": True})
    assert command["history"] == [
        {"status": "pending", "at": "2026-02-25T10:00:00Z"},
        {"status": "sent", "at": "2026-02-25T10:00:00Z"},
        {"status": "acknowledged", "at": "2026-02-25T10:00:01Z"},
        {"status": "running", "at": "2026-02-25T10:00:01Z"},
        {"status": "completed", "at": "2026-02-25T10:00:01Z"},
    ]
    assert (await house.get("/api/v1/commands/pending/a1")).json == {"commands": []}


async def test_reading_what_waits_does_not_count_as_fetching_it(house: House) -> None:
    command_id = await make(house)
    assert len((await house.get("/api/v1/commands/pending/a1")).json["commands"]) == 1
    assert (await shown(house, command_id))["status"] == "pending"


async def test_what_waits_for_nobody_is_not_found(house: House) -> None:
    assert (await house.get("/api/v1/commands/pending/nobody")).status == 404


async def test_the_same_end_again_is_200_and_another_one_409(house: House) -> None:
    command_id = await make(house)
    assert [(await report(house, command_id, "failed")).status for _ in range(2)] == [200, 200]
    answer = await report(house, command_id, "completed")
    assert (answer.status, answer.json["reason"]) == (409, "conflict")


async def test_a_result_must_be_of_the_command_that_the_path_names(house: House) -> None:
    one, other = await make(house), await make(house)
    message = {
        "agentId": "a1",
        "timestamp": rfc3339(house.clock.now()),
        "commandId": one,
        "status": "completed",
    }
    path = f"/api/v1/commands/{other}/result"
    answer = await house.send(path, house.sign(message))
    assert (answer.status, answer.json["reason"]) == (400, "invalid")
    assert one in answer.json["detail"]
    unsigned = await house.send(path, json.dumps(message).encode())
    assert (unsigned.status, unsigned.json["reason"]) == (403, "no_signature")
    assert [(await shown(house, command_id))["status"] for command_id in (one, other)] == ["pending"] * 2


async def test_a_result_of_another_agents_command_is_not_found(house: House) -> None:
    command_id = await make(house)
    assert (await report(house, command_id, "completed", agent_id="b2")).status == 404
    assert (await shown(house, command_id))["status"] == "pending"


async def test_an_unsigned_result_is_refused_by_default(house: House) -> None:
    command_id = await make(house)
    answer = await house.send(f"/api/v1/commands/{command_id}/result", b'{"status":"completed"}')
    assert (answer.status, answer.json["reason"]) == (403, "no_signature")


async def test_the_first_agents_may_answer_without_a_signature_where_it_is_allowed(lenient: House) -> None:
    command_id = await make(lenient)
    path = f"/api/v1/commands/{command_id}/result"
    body = {"status": "completed", "result": [1], "whatever": 1}
    answer = await lenient.call("POST", path, lenient.secret("a1"), body)
    assert (answer.status, answer.json) == (200, {"success": True})
    assert (await shown(lenient, command_id))["result"] == [1]
    other = await make(lenient, "b2")
    assert (await report(lenient, other, "failed", agent_id="b2")).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"status": "done"}, 400),
        ({}, 400),
        ({"status": "completed", "commandId": "CMD-other"}, 400),
        ({"status": "completed", "agentId": "b2"}, 403),
        ({"status": "completed", "result": "x" * 70_000}, 413),
        ({"status": "completed", "signature": "AAAA"}, 403),
    ],
)
async def test_a_bad_unsigned_result_is_refused(lenient: House, body: dict[str, Any], status: int) -> None:
    command_id = await make(lenient)
    answer = await lenient.call("POST", f"/api/v1/commands/{command_id}/result", lenient.token("a1"), body)
    assert answer.status == status
    assert (await shown(lenient, command_id))["status"] == "pending"


@shared_server
@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"agentId": "no id"}, "agentId"),
        ({"agentId": None}, "agentId"),
        ({"action": ""}, "action"),
        ({"action": "x" * 65}, "action"),
        ({"params": []}, "params"),
        ({"params": {"x": "y" * 62_000}}, "params"),
        ({"ttl": "soon"}, "ttl"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": -5}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": 1e300}, "ttl"),
        ({"ttl": "31d"}, "ttl"),
    ],
)
async def test_a_bad_command_is_refused_and_names_its_field(
    shared: House, members: dict[str, Any], field: str
) -> None:
    body = {"agentId": "a1", "action": "ping", **members}
    answer = await shared.call("POST", "/api/v1/commands", shared.command, body)
    assert (answer.status, list(answer.json["errors"])) == (400, [field])
    assert (await shared.get("/api/v1/commands")).json["commands"] == []


@shared_server
async def test_a_command_for_nobody_is_not_found(shared: House) -> None:
    body = {"agentId": "nobody", "action": "ping"}
    assert (await shared.call("POST", "/api/v1/commands", shared.command, body)).status == 404


@pytest.mark.parametrize(("ttl", "seconds"), [("90s", 90), (90, 90), (0.5, 0.5)])
async def test_a_lifetime_is_a_duration_or_seconds(house: House, ttl: str | float, seconds: float) -> None:
    command = await shown(house, await make(house, ttl=ttl))
    expected = house.clock.now() + timedelta(seconds=seconds)
    assert command["expiresAt"] == expected.isoformat().replace("+00:00", "Z")


async def test_a_command_is_cancelled_until_it_has_begun(house: House) -> None:
    command_id = await make(house)
    path = f"/api/v1/commands/{command_id}/cancel"
    answer = await house.call("POST", path, house.command)
    assert (answer.status, answer.json["command"]["status"]) == (200, "cancelled")
    other = await make(house)
    await report(house, other, "completed")
    assert (await house.call("POST", f"/api/v1/commands/{other}/cancel", house.command)).status == 409
    assert (await house.call("POST", "/api/v1/commands/none/cancel", house.command)).status == 404


async def test_commands_come_newest_first_by_the_page_and_each_one_once(house: House) -> None:
    made = []
    for number in range(7):
        made.append(await make(house, "a1" if number % 2 else "b2"))
        house.clock.advance(seconds=number // 3)
    found: list[str] = []
    path = "/api/v1/commands?limit=2"
    while True:
        page = (await house.get(path)).json
        found += [command["commandId"] for command in page["commands"]]
        assert all("history" not in command for command in page["commands"])
        if page["next"] is None:
            break
        path = f"/api/v1/commands?limit=2&cursor={page['next']}"
    assert sorted(found) == sorted(made)
    assert found[0] == made[-1]


async def test_commands_are_found_by_agent_and_status(house: House) -> None:
    one, other = await make(house, "a1"), await make(house, "b2")
    await report(house, other, "completed", agent_id="b2")
    for question, expected in (("agentId=a1", one), ("status=completed", other)):
        found = (await house.get(f"/api/v1/commands?{question}")).json["commands"]
        assert [command["commandId"] for command in found] == [expected], question


@shared_server
@pytest.mark.parametrize("question", ["status=lost", "agentId=no%20id", "limit=0", "cursor=x"])
async def test_a_bad_question_for_commands_is_refused_by_field(shared: House, question: str) -> None:
    answer = await shared.get(f"/api/v1/commands?{question}")
    assert (answer.status, list(answer.json["errors"])) == (400, [question.split("=")[0]])


@shared_server
@pytest.mark.parametrize("command_id", ["none", "%00", "%ED%A0%80", "x" * 500])
async def test_a_command_that_is_none_is_not_found(shared: House, command_id: str) -> None:
    assert (await shared.get(f"/api/v1/commands/{command_id}")).status == 404
