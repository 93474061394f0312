"""Agents over REST: registered with credentials that work, listed by the page, changed, removed."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from pingup import signing
from pingup.signing import Signer
from tests.http.house import House, shared_server


async def test_a_registered_agent_can_send_with_what_it_was_given(house: House) -> None:
    new = {"id": "c3", "name": "Cellar", "metadata": {"floor": -1}, "tags": ["edge"]}
    answer = await house.call("POST", "/api/v1/agents", house.admin, new)
    assert answer.status == 201
    assert answer.headers["Location"] == "/api/v1/agents/c3"
    assert answer.json["agent"] == {
        "id": "c3",
        "name": "Cellar",
        "status": "offline",
        "lastSeen": None,
        "metadata": {"floor": -1},
        "tags": ["edge"],
        "algorithm": "hmac-sha256",
        "createdAt": "2026-02-25T10:00:00Z",
    }
    credentials = answer.json["credentials"]
    assert credentials["token"] == signing.token_of(credentials["secret"])
    message = signing.sign(house_message(house, "c3"), credentials["secret"])
    sent = await house.call("POST", "/api/v1/metrics", credentials["token"], message)
    assert sent.status == 201
    shown = (await house.get("/api/v1/agents/c3")).json["agent"]
    assert (shown["status"], shown["lastSeen"]) == ("online", "2026-02-25T10:00:00Z")


def house_message(house: House, agent_id: str) -> bytes:
    return house.sign(house.sample(agent_id)).split(b',"signature"')[0] + b"}"


async def test_an_ed25519_agent_gets_a_token_and_the_servers_public_key(house: House) -> None:
    signer = Signer(signing.new_seed())
    new = {"id": "c3", "publicKey": signer.public_key}
    credentials = (await house.call("POST", "/api/v1/agents", house.admin, new)).json["credentials"]
    assert set(credentials) == {"token", "algorithm", "serverPublicKey"}
    body = house_message(house, "c3")
    message = signing.attach(body, signer.signature(body))
    assert (await house.call("POST", "/api/v1/metrics", credentials["token"], message)).status == 201


async def test_an_id_or_a_secret_that_exists_is_a_conflict(house: House) -> None:
    for new in ({"id": "a1"}, {"id": "c3", "secret": house.secret("a1")}):
        assert (await house.call("POST", "/api/v1/agents", house.admin, new)).status == 409


@shared_server
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "id"),
        ({"id": 7}, "id"),
        ({"id": "no spaces"}, "id"),
        ({"id": "server"}, "id"),
        ({"id": "c3", "name": ["x"]}, "name"),
        ({"id": "c3", "name": "x" * 129}, "name"),
        ({"id": "c3", "tags": "edge"}, "tags"),
        ({"id": "c3", "tags": [""]}, "tags[0]"),
        ({"id": "c3", "metadata": []}, "metadata"),
        ({"id": "c3", "secret": "short"}, "secret"),
        ({"id": "c3", "publicKey": "AAAA"}, "publicKey"),
        ({"id": "c3", "publicKey": "\u00e9"}, "publicKey"),
        (
            {"id": "c3", "publicKey": base64.b64encode(bytes(32)).decode(), "secret": "x" * 32},
            "secret",
        ),
    ],
)
async def test_a_bad_registration_is_refused_and_names_its_field(
    shared: House, body: dict[str, Any], field: str
) -> None:
    answer = await shared.call("POST", "/api/v1/agents", shared.admin, body)
    assert answer.status == 400
    assert field in answer.json["errors"]
    assert (await shared.get("/api/v1/agents/c3")).status == 404


async def test_agents_come_by_the_page_and_each_one_once(house: House) -> None:
    for number in range(5):
        await house.add_agent(f"c{number}")
    found, path = [], "/api/v1/agents?limit=3"
    while True:
        page = (await house.get(path)).json
        found += [agent["id"] for agent in page["agents"]]
        if page["next"] is None:
            break
        path = f"/api/v1/agents?limit=3&cursor={page['next']}"
    assert found == ["a1", "b2", "c0", "c1", "c2", "c3", "c4"]


async def test_agents_are_found_by_status_tag_and_name(house: House) -> None:
    await house.add_agent("c3", tags=("edge",))
    await house.store("c3")
    for question in ("status=online", "tag=edge", "q=C3"):
        found = (await house.get(f"/api/v1/agents?{question}")).json["agents"]
        assert [agent["id"] for agent in found] == ["c3"], question
    assert (await house.get("/api/v1/agents?tag=none")).json == {"agents": [], "next": None}


@shared_server
@pytest.mark.parametrize(
    "question", ["status=asleep", "limit=0", "limit=10001", "limit=x", "limit=-1", "limit=1.5", "cursor=x"]
)
async def test_a_bad_question_for_agents_is_refused_by_field(shared: House, question: str) -> None:
    answer = await shared.get(f"/api/v1/agents?{question}")
    assert answer.status == 400
    assert list(answer.json["errors"]) == [question.split("=")[0]]


async def test_an_agent_is_changed_in_what_is_given(house: House) -> None:
    path = "/api/v1/agents/a1"
    await house.call("PATCH", path, house.admin, {"name": "Attic", "tags": ["roof"]})
    answer = await house.call("PATCH", path, house.admin, {"metadata": {"room": 7}})
    agent = answer.json["agent"]
    assert (agent["name"], agent["tags"], agent["metadata"]) == ("Attic", ["roof"], {"room": 7})
    assert (await house.get(path)).json["agent"] == agent
    assert (await house.call("PATCH", path, house.admin, {"name": None})).status == 400
    assert (await house.call("PATCH", "/api/v1/agents/nobody", house.admin, {})).status == 404


async def test_a_removed_agent_is_gone_and_its_sessions_end(house: House) -> None:
    answer = await house.call("DELETE", "/api/v1/agents/a1", house.admin)
    assert (answer.status, answer.json) == (200, {"success": True})
    assert (await house.get("/api/v1/agents/a1")).status == 404
    assert (await house.call("DELETE", "/api/v1/agents/a1", house.admin)).status == 404
    assert house.downlink.ended == ["a1"]


async def test_purge_is_true_or_false(house: House) -> None:
    answer = await house.call("DELETE", "/api/v1/agents/a1?purge=yes", house.admin)
    assert (answer.status, list(answer.json["errors"])) == (400, ["purge"])
    assert (await house.get("/api/v1/agents/a1")).status == 200


async def test_a_heartbeat_makes_an_agent_online_and_tells_of_commands(house: House) -> None:
    await house.services.commands.create("a1", "ping", {})
    for body in (None, {"anything": 1}):
        answer = await house.call("POST", "/api/v1/agents/a1/heartbeat", house.token("a1"), body)
        assert (answer.status, answer.json) == (200, {"success": True, "pendingCommands": 1})
    assert (await house.get("/api/v1/agents/a1")).json["agent"]["status"] == "online"
