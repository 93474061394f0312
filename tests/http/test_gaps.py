"""What is missing of an agent's numbered messages, and how complete a range is, as people ask for it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tests.http.house import Answer, House


async def post(house: House, seq: int, **members: Any) -> Answer:
    """Send message `seq`, of `seq` seconds after the hour before."""
    message = {**house.sample(at=house.ago(seconds=3600 - seq)), "stream": "s", "seq": seq, **members}
    return await house.send("/api/v1/metrics", house.sign(message))


def moment(house: House, seconds: float) -> str:
    """So many seconds after the hour before, as it is answered."""
    return shown(house.ago(seconds=3600 - seconds))


def shown(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def test_every_gap_is_shown_with_its_reason_and_the_time_that_it_covers(house: House) -> None:
    for seq in (1, 4):
        assert (await post(house, seq)).status == 201
    assert (await post(house, 5, status="NO")).status == 400
    assert (await post(house, 8, first=3)).status == 201
    answer = await house.get("/api/v1/agents/a1/gaps")
    assert answer.status == 200
    first, fourth, eighth = [moment(house, seconds) for seconds in (1, 4, 8)]
    assert answer.json == {
        "agentId": "a1",
        "streams": [
            {
                "stream": "s",
                "seq": 2,
                "highest": 8,
                "first": 3,
                "missing": 3,
                "lost": 1,
                "refused": 1,
                "updatedAt": shown(house.clock.now()),
                "gapCount": 4,
                "gaps": [
                    {"from": 6, "to": 7, "count": 2, "state": "missing", "after": fourth, "before": eighth},
                    {"from": 5, "to": 5, "count": 1, "state": "refused", "after": fourth, "before": eighth},
                    {"from": 3, "to": 3, "count": 1, "state": "missing", "after": first, "before": fourth},
                    {"from": 2, "to": 2, "count": 1, "state": "lost", "after": first, "before": fourth},
                ],
            }
        ],
    }


async def test_as_many_gaps_as_asked_for_are_shown_and_all_are_counted(house: House) -> None:
    for seq in (2, 4, 6):
        await post(house, seq)
    (stream,) = (await house.get("/api/v1/agents/a1/gaps?limit=1")).json["streams"]
    assert (stream["gapCount"], stream["missing"]) == (3, 3)
    assert [gap["from"] for gap in stream["gaps"]] == [5]


async def test_the_stream_heard_of_last_comes_first(house: House) -> None:
    for stream in ("old", "new", "old"):
        await post(house, 1, stream=stream)
    streams = (await house.get("/api/v1/agents/a1/gaps")).json["streams"]
    assert [stream["stream"] for stream in streams] == ["old", "new"]


async def test_an_agent_reads_its_own_gaps_and_nobody_elses(house: House) -> None:
    assert (await house.get("/api/v1/agents/a1/gaps", house.token("a1"))).status == 200
    assert (await house.get("/api/v1/agents/b2/gaps", house.token("a1"))).status == 403


async def test_an_agent_that_does_not_number_its_messages_has_no_streams_and_an_unknown_one_is_404(
    house: House,
) -> None:
    await house.store()
    assert (await house.get("/api/v1/agents/a1/gaps")).json == {"agentId": "a1", "streams": []}
    assert (await house.get("/api/v1/agents/nobody/gaps")).status == 404


async def test_gaps_outlive_their_agent_unless_they_are_purged(house: House) -> None:
    await post(house, 1)
    await house.call("DELETE", "/api/v1/agents/a1", house.admin)
    assert (await house.get("/api/v1/agents/a1/gaps")).json["streams"][0]["seq"] == 1
    await house.call("DELETE", "/api/v1/agents/a1?purge=true", house.admin)
    assert (await house.get("/api/v1/agents/a1/gaps")).status == 404


@pytest.mark.parametrize("asked", ["limit=0", "limit=x", "format=csv"])
async def test_bad_parameters_are_refused(house: House, asked: str) -> None:
    assert (await house.get(f"/api/v1/agents/a1/gaps?{asked}")).status in (400, 406)


# --- completeness ----------------------------------------------------------------------------------


async def completeness(house: House, start: float, end: float) -> Any:
    asked = f"from={moment(house, start)}&to={moment(house, end)}"
    return (await house.get(f"/api/v1/metrics/a1?{asked}")).json["completeness"]


async def test_a_range_says_how_complete_it_is(house: House) -> None:
    for seq in (1, 2, 3, 5, 6, 7, 8, 9, 10):
        await post(house, seq)
    assert await completeness(house, 0, 100) == 90.0
    assert await completeness(house, 0, 3) == 100.0
    assert await completeness(house, 6, 100) == 100.0
    assert (await house.get("/api/v1/metrics/a1?from=-2h")).json["completeness"] == 90.0
    assert (await house.get("/api/v1/metrics/a1?to=now&limit=1")).json["completeness"] == 90.0
    await post(house, 4)
    assert await completeness(house, 0, 100) == 100.0


async def test_the_next_page_of_a_range_is_as_complete_as_the_first(house: House) -> None:
    for seq in (1, 3, 4):
        await post(house, seq)
    first = (await house.get("/api/v1/metrics/a1?from=-2h&limit=1")).json
    second = (await house.get(f"/api/v1/metrics/a1?limit=1&cursor={first['next']}")).json
    assert first["completeness"] == second["completeness"] == 75.0


async def test_without_numbers_nobody_knows_and_without_a_range_nobody_asks(house: House) -> None:
    await house.store()
    assert (await house.get("/api/v1/metrics/a1?from=-1h")).json["completeness"] is None
    await post(house, 1)
    assert "completeness" not in (await house.get("/api/v1/metrics/a1")).json


async def test_numbers_are_not_shown_as_metrics_and_leave_a_metric_of_that_name_alone(house: House) -> None:
    await post(house, 1, metrics={"cpu": 1, "seq": 77, "stream": 5})
    (sample,) = await house.stored()
    assert (sample["seq"], sample["stream"]) == (77, 5)
    await post(house, 2)
    assert "seq" not in (await house.stored())[0]
