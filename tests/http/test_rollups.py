"""Metrics by the bucket over REST: what people get, in pages, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http.house import House, shared_server

PATH = "/api/v1/metrics/a1"


async def fill(house: House, count: int, minutes: float = 10) -> None:
    for number in range(count):
        await house.store(at=house.ago(minutes=minutes * number), cpu=number, fan=number * 100)


async def test_buckets_have_the_aggregates_that_were_asked_for(house: House) -> None:
    await house.store(at=house.ago(minutes=50), cpu=1, latency=5)
    await house.store(at=house.ago(minutes=40), cpu=4)
    answer = await house.get(f"{PATH}?step=1h&agg=avg,p50,last,count&fields=cpu,latency")
    assert answer.json == {
        "agentId": "a1",
        "step": 3600,
        "metrics": [
            {
                "timestamp": "2026-02-25T09:00:00Z",
                "count": 2,
                "cpu": {"avg": 2.5, "p50": 2.5, "last": 4.0, "count": 2},
                "latency": {"avg": 5.0, "p50": 5.0, "last": 5, "count": 1},
            }
        ],
        "next": None,
    }


async def test_the_columns_have_average_least_and_greatest_unless_asked_otherwise(house: House) -> None:
    await house.store(cpu=3)
    [bucket] = (await house.get(f"{PATH}?step=5m")).json["metrics"]
    nothing = {"avg": None, "min": None, "max": None}
    assert bucket == {
        "timestamp": "2026-02-25T10:00:00Z",
        "count": 1,
        "cpu": {"avg": 3.0, "min": 3.0, "max": 3.0},
        "ram": nothing,
        "disk": nothing,
        "latency": nothing,
    }


async def test_a_further_metric_is_rolled_up_by_its_name(house: House) -> None:
    await fill(house, 3)
    [_, bucket] = (await house.get(f"{PATH}?step=1h&agg=max&fields=fan")).json["metrics"]
    assert bucket == {"timestamp": "2026-02-25T09:00:00Z", "count": 2, "fan": {"max": 200.0}}


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_the_pages_of_a_rollup_hold_every_bucket_once(house: House, order: str) -> None:
    await fill(house, 20)
    question = f"{PATH}?step=30m&agg=count&fields=cpu&order={order}&from=-2h"
    whole = (await house.get(question)).json["metrics"]
    assert sum(bucket["count"] for bucket in whole) == 13
    found: list[Any] = []
    cursor = ""
    while True:
        answer = (await house.get(f"{question}&limit=2{cursor}")).json
        found += answer["metrics"]
        house.clock.advance(minutes=5)
        if answer["next"] is None:
            break
        cursor = f"&cursor={answer['next']}"
    assert found == whole


@pytest.mark.parametrize(
    ("start", "step"),
    [("-1m", 1), ("-1h", 10), ("-1d", 300), ("-7d", 1800), ("-30d", 10_800), ("-90d", 21_600)],
)
async def test_an_automatic_step_suits_the_range(house: House, start: str, step: int) -> None:
    assert (await house.get(f"{PATH}?step=auto&from={start}")).json["step"] == step


async def test_an_automatic_step_does_not_change_from_page_to_page(house: House) -> None:
    await fill(house, 3)
    page = (await house.get(f"{PATH}?step=auto&from=-1h&limit=1")).json
    house.clock.advance(hours=1)
    following = (await house.get(f"{PATH}?step=auto&from=-1h&limit=1&cursor={page['next']}")).json
    assert (page["step"], following["step"]) == (10, 10)


async def test_a_range_says_how_complete_it_is(house: House) -> None:
    assert "completeness" not in (await house.get(f"{PATH}?step=1h")).json
    assert "completeness" in (await house.get(f"{PATH}?step=1h&from=-1h")).json


async def test_an_unknown_agent_has_no_buckets_and_a_known_one_none_yet(house: House) -> None:
    assert (await house.get("/api/v1/metrics/nobody?step=1h")).status == 404
    assert (await house.get(f"{PATH}?step=1h")).json["metrics"] == []


async def test_fields_choose_what_a_sample_shows(house: House) -> None:
    await house.store(cpu=1, fan=900)
    [sample] = (await house.get(f"{PATH}?fields=fan,status,pump")).json["metrics"]
    assert sample == {"timestamp": "2026-02-25T10:00:00Z", "fan": 900, "status": "online", "pump": None}


@shared_server
@pytest.mark.parametrize(
    ("question", "field"),
    [
        *(("step=", "step"), ("step=0s", "step"), ("step=1", "step"), ("step=-1h", "step")),
        *(
            ("step=367d", "step"),
            ("step=hourly", "step"),
            ("step=auto", "step"),
            ("step=auto&to=now", "step"),
        ),
        *(("step=1h&agg=", "agg"), ("step=1h&agg=mean", "agg"), ("step=1h&agg=avg,avg", "agg")),
        *(("agg=avg", "agg"), ("step=1h&fields=", "fields"), ("step=1h&fields=cpu,", "fields")),
        *(("step=1h&fields=status", "fields"), ("step=1h&fields=count", "fields")),
        *(("fields=cpu,cpu", "fields"), ("fields=timestamp", "fields"), (f"fields={'x' * 65}", "fields")),
        *((f"fields={','.join(map(str, range(65)))}", "fields"), ("step=1h&limit=0", "limit")),
        *(("step=1h&order=up", "order"), ("step=1h&cursor=x", "cursor"), ("step=1h&from=x", "from")),
    ],
)
async def test_what_cannot_be_rolled_up_is_refused_by_field(shared: House, question: str, field: str) -> None:
    answer = await shared.get(f"{PATH}?{question}")
    assert (answer.status, list(answer.json["errors"])) == (400, [field])


async def test_a_cursor_of_samples_or_of_another_step_is_refused(house: House) -> None:
    await fill(house, 3)
    of_samples = (await house.get(f"{PATH}?limit=1")).json["next"]
    of_minutes = (await house.get(f"{PATH}?limit=1&step=1m")).json["next"]
    for question in (f"step=1m&cursor={of_samples}", f"step=5m&cursor={of_minutes}", f"cursor={of_minutes}"):
        assert (await house.get(f"{PATH}?{question}")).status == 400, question


@shared_server
async def test_buckets_come_as_json_only(shared: House) -> None:
    assert (await shared.get(f"{PATH}?step=1h&format=csv")).status == 406
