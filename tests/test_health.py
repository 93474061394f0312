"""How the server is: each part has its say, in time, and not again for everybody who asks."""

from __future__ import annotations

import asyncio

import pytest

from pingup.errors import Unavailable
from pingup.http.problems import without_directories
from pingup.services import health
from pingup.services.health import Component, HealthCheck, Status
from tests.conftest import ManualClock


async def well() -> Component:
    return Component(Status.HEALTHY)


async def test_a_part_that_hangs_is_unhealthy_and_hides_no_other(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ANSWER_WITHIN", 0.01)

    async def hangs() -> Component:
        await asyncio.Event().wait()
        raise AssertionError

    found = await HealthCheck(clock, {"disk": hangs, "mqtt": well}).look()
    assert found.status is Status.UNHEALTHY
    assert found.components["disk"] == Component(Status.UNHEALTHY, "does not answer within 0.01 s")
    assert found.components["mqtt"].status is Status.HEALTHY


async def test_what_is_unavailable_says_why(clock: ManualClock) -> None:
    async def gone() -> Component:
        raise Unavailable("the disk is full")

    found = await HealthCheck(clock, {"disk": gone}).look()
    assert found.components == {"disk": Component(Status.UNHEALTHY, "the disk is full")}


async def test_many_who_ask_at_once_cost_one_look(clock: ManualClock) -> None:
    looks = 0

    async def counts() -> Component:
        nonlocal looks
        looks += 1
        return Component(Status.HEALTHY)

    check = HealthCheck(clock, {"disk": counts})
    await asyncio.gather(*(check.look() for _ in range(100)))
    assert looks == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('cannot open "/srv/pingup/analytics.duckdb": full', 'cannot open "analytics.duckdb": full'),
        ("kept in /srv/pingup data/x.wal", "kept in pingup data/x.wal"),
        ("cannot connect to mqtt://host:1883/x", "cannot connect to mqtt://host:1883/x"),
        ("refused on pingup/v1/up/a1/metrics", "refused on pingup/v1/up/a1/metrics"),
    ],
)
def test_strangers_are_told_of_files_and_not_of_directories(text: str, shown: str) -> None:
    assert without_directories(text) == shown
