"""Who may make which call: every route of the table against every kind of caller."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pingup.http.access import AGENT_ID, Route
from pingup.http.routes import ROUTES
from pingup.model import Scope
from tests.http.house import House, shared_server

GUARDED = [route for route in ROUTES if not route.access.anybody]


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


def path_of(route: Route, agent_id: str = "a1") -> str:
    return re.sub(r"\{\w+\}", "CMD-none", route.path.replace(f"{{{AGENT_ID}}}", agent_id))


async def call(house: House, route: Route, token: str | None, agent_id: str = "a1") -> int:
    """The status of a call with a body that nothing accepts: beyond 403 the caller was let in."""
    body = b"[]" if route.method in ("POST", "PATCH") else None
    return (await house.call(route.method, path_of(route, agent_id), token, body)).status


def test_only_health_is_open_to_everybody() -> None:
    assert {route.path for route in ROUTES if route.access.anybody} == {"/health", "/livez", "/readyz"}


def test_no_call_stands_twice_in_the_table() -> None:
    assert len({name_of(route) for route in ROUTES}) == len(ROUTES)


def test_every_guarded_route_names_somebody_who_may_call_it() -> None:
    assert all(route.access.agent or route.access.scope for route in GUARDED)


async def test_no_call_is_answered_without_a_credential(house: House) -> None:
    for route in GUARDED:
        body = b"[]" if route.method in ("POST", "PATCH") else None
        answer = await house.call(route.method, path_of(route), None, body)
        assert answer.status == 401, name_of(route)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@shared_server
@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer pgp_wrong", "Basic YTpi", "pgp_wrong", "Bearer \xff\xfe", "Bearer a b"],
)
async def test_no_call_is_answered_with_a_wrong_credential(shared: House, header: str) -> None:
    for route in GUARDED:
        answer = await shared.call(route.method, path_of(route), headers={"Authorization": header})
        assert answer.status == 401, name_of(route)


async def test_an_agents_secret_is_no_bearer(house: House) -> None:
    assert (await house.get("/api/v1/metrics/a1", house.secret("a1"))).status == 401


async def test_a_scope_opens_what_it_reaches_and_nothing_above(house: House) -> None:
    tokens = {Scope.READ: house.read, Scope.COMMAND: house.command, Scope.ADMIN: house.admin}
    for route in GUARDED:
        for scope, token in tokens.items():
            status = await call(house, route, token)
            may = route.access.scope is not None and scope >= route.access.scope
            assert (status != 403) is may, f"{name_of(route)} as {scope.name}: {status}"
            assert status != 401


async def test_an_agent_may_make_its_own_calls_and_no_others(house: House) -> None:
    for route in GUARDED:
        # What names no agent is judged by its message; [] is refused there with 403 for its signature.
        if route.access.agent and AGENT_ID not in route.path:
            continue
        status = await call(house, route, house.token("a1"))
        assert (status != 403) is route.access.agent, f"{name_of(route)}: {status}"


async def test_an_agent_may_ask_nothing_about_another_one(house: House) -> None:
    for route in GUARDED:
        if AGENT_ID in route.path:
            assert await call(house, route, house.token("a1"), "b2") == 403, name_of(route)
            assert await call(house, route, house.token("a1"), "nobody") == 403, name_of(route)


async def test_head_is_guarded_like_get(house: House) -> None:
    for route in GUARDED:
        if route.method == "GET":
            assert (await house.call("HEAD", path_of(route))).status == 401, name_of(route)
            assert (await house.call("HEAD", path_of(route), "pgp_wrong")).status == 401, name_of(route)


async def test_an_agent_that_was_removed_is_let_in_no_more(house: House) -> None:
    await house.services.agents.remove("a1", purge=False)
    assert (await house.send("/api/v1/metrics", house.sign(house.sample()))).status == 401


@shared_server
@pytest.mark.parametrize("agent_id", ["pending", "operator.x", "-x", "a%20b", "a%00b", "%ED%A0%80", "x" * 65])
async def test_what_can_be_no_agents_id_is_not_found(shared: House, agent_id: str) -> None:
    for route in GUARDED:
        if AGENT_ID in route.path and route.access.scope is not None:
            assert await call(shared, route, shared.admin, agent_id) == 404, name_of(route)


def test_the_documentation_has_every_call_and_no_others() -> None:
    text = (Path(__file__).parents[2] / "docs" / "rest.md").read_text("utf-8")
    documented = set(re.findall(r"^\| ((?:GET|POST|PATCH|DELETE) \S+) \|", text, re.MULTILINE))
    assert {re.sub(r"\{\w+\}", "{}", call) for call in documented} == {
        re.sub(r"\{\w+\}", "{}", name_of(route)) for route in ROUTES
    }
