"""Metrics over REST: taken once committed, kept once, read back by the page."""

from __future__ import annotations

import json
from datetime import timedelta

from pingup.clock import rfc3339
from tests.http.house import NDJSON, House, Wire


async def test_a_signed_sample_is_answered_201_and_is_readable_at_once(house: House) -> None:
    answer = await house.send("/api/v1/metrics", house.sign(house.sample(cpu=12.5, latency=8.5, fan=900)))
    assert (answer.status, answer.json) == (201, {"success": True})
    history = await house.get("/api/v1/metrics/a1")
    assert history.json == {
        "agentId": "a1",
        "metrics": [
            {
                "timestamp": "2026-02-25T10:00:00Z",
                "cpu": 12.5,
                "ram": None,
                "disk": None,
                "latency": 9,
                "status": "online",
                "fan": 900,
            }
        ],
        "next": None,
    }


async def test_the_same_sample_again_is_answered_200_and_kept_once(house: House) -> None:
    message = house.sign(house.sample())
    assert (await house.send("/api/v1/metrics", message)).status == 201
    again = await house.send("/api/v1/metrics", message)
    assert (again.status, again.json) == (200, {"success": True, "duplicate": True})
    assert len(await house.stored()) == 1


async def test_a_message_without_a_content_type_is_taken(house: House) -> None:
    message = house.sign(house.sample())
    head = (
        f"POST /api/v1/metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.token('a1')}\r\n"
        f"Content-Length: {len(message)}\r\n\r\n"
    )
    async with Wire.open(house) as wire:
        await wire.send(head.encode(), message)
        assert (await wire.answer()).status == 201


async def test_a_batch_is_answered_with_what_became_of_its_samples(house: House) -> None:
    good, late = house.clock.now(), house.clock.now() + timedelta(hours=1)
    samples = [
        {"timestamp": rfc3339(at), "metrics": {"cpu": value}, "status": "online"}
        for at, value in ((good, 1), (good, 1), (late, 2))
    ]
    batch = {"agentId": "a1", "timestamp": rfc3339(good), "samples": samples}
    answer = await house.send("/api/v1/metrics", house.sign(batch))
    assert answer.status == 201
    [rejected] = answer.json["rejected"]
    assert (rejected["index"], rejected["reason"]) == (2, "from_the_future")
    assert {key: answer.json[key] for key in ("success", "stored", "duplicates")} == {
        "success": True,
        "stored": 1,
        "duplicates": 1,
    }
    assert len(await house.stored()) == 1


async def test_a_batch_of_one_is_answered_as_a_batch_and_again_as_a_duplicate(house: House) -> None:
    now = rfc3339(house.clock.now())
    sample = {"timestamp": now, "metrics": {"cpu": 1}, "status": "online"}
    batch = house.sign({"agentId": "a1", "timestamp": now, "samples": [sample]})
    first, again = [await house.send("/api/v1/metrics", batch) for _ in range(2)]
    assert (first.status, first.json) == (
        201,
        {"success": True, "stored": 1, "duplicates": 0, "rejected": []},
    )
    assert (again.status, again.json) == (
        200,
        {"success": True, "duplicate": True, "stored": 0, "duplicates": 1, "rejected": []},
    )


async def test_each_line_of_ndjson_gets_the_answer_that_it_would_have_got_alone(house: House) -> None:
    lines = [
        house.sign(house.sample(cpu=1)),
        house.sign(house.sample(cpu=1)),
        json.dumps(house.sample(cpu=2)).encode(),
        house.sign(house.sample(latency=3_000_000_000)),
        house.sign(house.sample("b2", cpu=3)),
        b"{" * 2000,
        house.sign(house.sample(cpu=4)),
    ]
    body = b"\r\n".join(lines) + b"\n\n"
    answer = await house.send("/api/v1/metrics", body, headers=NDJSON)
    assert answer.status == 207
    results = answer.json["results"]
    assert [line["status"] for line in results] == [201, 200, 403, 400, 403, 403, 201]
    assert results[0] == {"status": 201}
    assert results[1] == {"status": 200, "duplicate": True}
    assert [line.get("reason") for line in results[2:6]] == [
        "no_signature",
        "invalid",
        "wrong_agent",
        "no_signature",
    ]
    assert all(line["detail"] for line in results[2:6])
    assert {sample["cpu"] for sample in await house.stored()} == {1, 4}


async def test_a_thousand_lines_come_in_together(house: House) -> None:
    lines = [house.sign(house.sample(at=house.ago(seconds=n), cpu=n)) for n in range(1000)]
    answer = await house.send("/api/v1/metrics", b"\n".join(lines), headers=NDJSON)
    assert {line["status"] for line in answer.json["results"]} == {201}
    assert len(await house.stored()) == 1000


async def test_a_batch_on_a_line_is_answered_with_its_counts(house: House) -> None:
    now = rfc3339(house.clock.now())
    sample = {"timestamp": now, "metrics": {"cpu": 1}, "status": "online"}
    line = house.sign({"agentId": "a1", "timestamp": now, "samples": [sample]})
    answer = await house.send("/api/v1/metrics", line, headers=NDJSON)
    assert answer.json["results"] == [{"status": 201, "stored": 1, "duplicates": 0, "rejected": []}]


async def test_no_lines_have_no_results(house: House) -> None:
    answer = await house.send("/api/v1/metrics", b"\n\r\n \n", headers=NDJSON)
    assert (answer.status, answer.json) == (207, {"results": []})


async def test_too_many_lines_are_refused_whole(house: House) -> None:
    answer = await house.send("/api/v1/metrics", b"{}\n" * 10_001, headers=NDJSON)
    assert answer.status == 413


async def test_the_newest_sample_of_each_agent_is_shown(house: House) -> None:
    await house.add_agent("c3", tags=("edge",))
    for agent_id in ("a1", "c3"):
        await house.store(agent_id, at=house.ago(minutes=1), cpu=1)
        await house.store(agent_id, cpu=2)
    found = (await house.get("/api/v1/metrics")).json["metrics"]
    assert [(sample["agentId"], sample["cpu"]) for sample in found] == [("a1", 2), ("c3", 2)]
    tagged = (await house.get("/api/v1/metrics?tag=edge&status=online")).json["metrics"]
    assert [sample["agentId"] for sample in tagged] == ["c3"]
    assert (await house.get("/api/v1/metrics?status=offline")).json["metrics"] == []


async def test_a_history_is_cut_by_from_inclusive_and_to_exclusive(house: House) -> None:
    for minutes in range(4):
        await house.store(at=house.ago(minutes=minutes), cpu=minutes)
    start, end = rfc3339(house.ago(minutes=2)), int(house.clock.now().timestamp())
    asked = await house.get(f"/api/v1/metrics/a1?from={start}&to={end}&order=asc")
    assert [sample["cpu"] for sample in asked.json["metrics"]] == [2, 1]
    relative = await house.get("/api/v1/metrics/a1?from=-2m&to=now")
    assert [sample["cpu"] for sample in relative.json["metrics"]] == [1, 2]


async def test_an_agent_reads_its_own_history(house: House) -> None:
    await house.store()
    answer = await house.get("/api/v1/metrics/a1", house.token("a1"))
    assert len(answer.json["metrics"]) == 1


async def test_an_unknown_agent_has_no_history_and_a_known_one_an_empty_one(house: House) -> None:
    assert (await house.get("/api/v1/metrics/nobody")).status == 404
    assert (await house.get("/api/v1/metrics/b2")).json == {"agentId": "b2", "metrics": [], "next": None}


async def test_telemetry_outlives_its_agent_unless_it_is_purged(house: House) -> None:
    for agent_id, purge in (("a1", ""), ("b2", "?purge=true")):
        await house.store(agent_id)
        assert (await house.call("DELETE", f"/api/v1/agents/{agent_id}{purge}", house.admin)).status == 200
    assert (await house.get("/api/v1/metrics/a1")).status == 200
    assert (await house.get("/api/v1/metrics/b2")).status == 404
