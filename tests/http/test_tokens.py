"""API tokens over REST: shown once, listed without their text, good until they expire or are revoked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http.house import House, shared_server

PATH = "/api/v1/tokens"


async def test_a_new_token_works_with_its_scope_until_it_expires(house: House) -> None:
    body = {"name": "grafana", "scope": "read", "expiresAt": "2026-02-25T12:00:00+01:00"}
    made = await house.call("POST", PATH, house.admin, body)
    assert made.status == 201
    assert made.headers["Location"] == f"{PATH}/{made.json['id']}"
    assert made.json["token"].startswith("pgp_")
    assert {name: made.json[name] for name in ("name", "scope", "expiresAt")} == {
        "name": "grafana",
        "scope": "read",
        "expiresAt": "2026-02-25T11:00:00Z",
    }
    token = made.json["token"]
    assert (await house.get("/api/v1/agents", token)).status == 200
    assert (await house.get(PATH, token)).status == 403
    house.clock.advance(hours=1)
    assert (await house.get("/api/v1/agents", token)).status == 401


async def test_tokens_are_listed_with_their_last_use_and_without_their_text(house: House) -> None:
    answer = await house.get(PATH, house.admin)
    assert {token["name"]: token["scope"] for token in answer.json["tokens"]} == {
        "reader": "read",
        "commander": "command",
        "admin": "admin",
    }
    [admin] = [token for token in answer.json["tokens"] if token["name"] == "admin"]
    assert set(admin) == {"id", "name", "scope", "createdAt", "expiresAt", "lastUsedAt"}
    assert admin["lastUsedAt"] == "2026-02-25T10:00:00Z"
    assert b"pgp_" not in answer.body
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_revoked_token_works_no_more_and_its_sessions_end(house: House) -> None:
    made = (await house.call("POST", PATH, house.admin, {"name": "x", "scope": "command"})).json
    assert made["expiresAt"] is None
    answer = await house.call("DELETE", f"{PATH}/{made['id']}", house.admin)
    assert (answer.status, answer.json) == (200, {"success": True})
    assert (await house.get("/api/v1/agents", made["token"])).status == 401
    assert (await house.call("DELETE", f"{PATH}/{made['id']}", house.admin)).status == 404
    assert house.downlink.ended == [made["id"]]


@shared_server
@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"scope": "root"}, "scope"),
        ({"scope": 3}, "scope"),
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"expiresAt": "2026-02-25T09:59:59Z"}, "expiresAt"),
        ({"expiresAt": "2027-01-01T00:00:00"}, "expiresAt"),
        ({"expiresAt": "9999-12-31T23:59:59-10:00"}, "expiresAt"),
        ({"expiresAt": "tomorrow"}, "expiresAt"),
    ],
)
async def test_a_bad_token_is_refused_and_names_its_field(
    shared: House, members: dict[str, Any], field: str
) -> None:
    body = {"name": "x", "scope": "read", **members}
    answer = await shared.call("POST", PATH, shared.admin, body)
    assert (answer.status, list(answer.json["errors"])) == (400, [field])
