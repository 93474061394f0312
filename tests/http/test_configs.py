"""Configurations over REST: versions, ETags, and nobody overwriting what he has not seen."""

from __future__ import annotations

from typing import Any

import pytest

from pingup.model import ConfigReport
from tests.http.house import Answer, House, shared_server

PATH = "/api/v1/config/a1"


async def put(house: House, config: Any, **headers: str) -> Answer:
    return await house.call(
        "POST", PATH, house.admin, config, {k.replace("_", "-"): v for k, v in headers.items()}
    )


async def test_an_agent_without_a_configuration_has_the_empty_version_0(house: House) -> None:
    answer = await house.get(PATH, house.token("a1"))
    assert answer.json == {
        "agentId": "a1",
        "version": 0,
        "config": {},
        "updatedAt": None,
        "reported": None,
    }
    assert answer.headers["ETag"] == '"v0"'
    assert (await house.get("/api/v1/config/nobody")).status == 404


async def test_each_change_is_a_version_and_old_ones_stay_readable(house: House) -> None:
    for number in (1, 2):
        answer = await put(house, {"interval": number})
        assert (answer.status, answer.json["version"], answer.headers["ETag"]) == (
            200,
            number,
            f'"v{number}"',
        )
    assert (await house.get(PATH)).json["config"] == {"interval": 2}
    old = await house.get(f"{PATH}?version=1")
    assert (old.json["config"], old.headers["ETag"]) == ({"interval": 1}, '"v1"')
    assert (await house.get(f"{PATH}?version=3")).status == 404
    history = (await house.get(f"{PATH}/history")).json
    assert history["agentId"] == "a1"
    assert [(entry["version"], entry["config"]) for entry in history["versions"]] == [
        (2, {"interval": 2}),
        (1, {"interval": 1}),
    ]


async def test_what_the_agent_reported_stands_beside_what_it_should_have(house: House) -> None:
    now = house.clock.now()
    await house.services.configs.report(ConfigReport("a1", now, 0, applied=True), now)
    reported = (await house.get(PATH)).json["reported"]
    assert reported == {"version": 0, "applied": True, "error": None, "at": "2026-02-25T10:00:00Z"}


async def test_a_rollback_is_a_new_version_with_the_old_content(house: House) -> None:
    for number in (1, 2):
        await put(house, {"interval": number})
    answer = await house.call("POST", f"{PATH}/rollback", house.admin, {"version": 1})
    assert (answer.status, answer.json["version"], answer.json["config"]) == (200, 3, {"interval": 1})
    for bad, status in (({"version": 9}, 404), ({"version": -1}, 400), ({"version": "1"}, 400), ({}, 400)):
        assert (await house.call("POST", f"{PATH}/rollback", house.admin, bad)).status == status


@pytest.mark.parametrize("tag", ['"v1"', "*", '"v7", "v1"'])
async def test_a_change_with_the_right_if_match_is_made(house: House, tag: str) -> None:
    await put(house, {"n": 1})
    answer = await put(house, {"n": 2}, If_Match=tag)
    assert (answer.status, answer.json["version"]) == (200, 2)


@pytest.mark.parametrize("tag", ['"v0"', '"v2"', 'W/"v1"', "v1", '"nonsense"', '""'])
async def test_a_change_with_another_if_match_is_412_and_not_made(house: House, tag: str) -> None:
    await put(house, {"n": 1})
    assert (await put(house, {"n": 2}, If_Match=tag)).status == 412
    assert (await house.get(PATH)).json["version"] == 1


async def test_the_first_change_may_be_bound_to_there_being_none(house: House) -> None:
    assert (await put(house, {}, If_Match='"v0"')).json["version"] == 1
    assert (await put(house, {}, If_Match='"v0"')).status == 412


@pytest.mark.parametrize(
    ("tag", "status"), [('"v1"', 304), ('W/"v1"', 304), ("*", 304), ('"v0", "v1"', 304), ('"v0"', 200)]
)
async def test_what_the_caller_has_already_is_304(house: House, tag: str, status: int) -> None:
    await put(house, {"n": 1})
    answer = await house.call("GET", PATH, house.read, headers={"If-None-Match": tag})
    assert (answer.status, answer.headers["ETag"]) == (status, '"v1"')
    assert bool(answer.body) is (status == 200)


@shared_server
@pytest.mark.parametrize(
    "body", [[], "x", 1, None, {"x": "y" * 62_000}, {"a": {"b": {"c": {"d": [[[[1]]]]}}}}]
)
async def test_what_can_be_no_configuration_is_refused(shared: House, body: Any) -> None:
    data = b"null" if body is None else body
    assert (await put(shared, data)).status == 400
    assert (await shared.get(PATH)).json["version"] == 0


@shared_server
async def test_a_configuration_for_nobody_is_not_found(shared: House) -> None:
    for path in ("/api/v1/config/nobody", "/api/v1/config/nobody/rollback"):
        assert (await shared.call("POST", path, shared.admin, {"version": 1})).status == 404
    assert (await shared.get("/api/v1/config/nobody/history")).status == 404


@shared_server
@pytest.mark.parametrize("version", ["x", "-1", "1.5", "99999999999999999999", ""])
async def test_a_bad_version_is_refused(shared: House, version: str) -> None:
    answer = await shared.get(f"{PATH}?version={version}")
    assert (answer.status, list(answer.json["errors"])) == (400, ["version"])
