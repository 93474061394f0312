"""Discovery over REST: whole scans in, whole scans out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pingup.clock import rfc3339
from tests.http.house import House

HOSTS = [
    {"ip": "192.168.1.1", "latency": 2, "ports": [80, 443]},
    {"ip": "192.168.1.7", "latency": -1, "ports": [], "mac": "aa:bb:cc:dd:ee:ff", "hostname": "nas"},
]


def scan(house: House, hosts: list[Any], at: datetime | None = None) -> bytes:
    body = {"hosts": hosts, "duration": 15230}
    return house.sign({"agentId": "a1", "timestamp": rfc3339(at or house.clock.now()), "discovery": body})


async def test_a_scan_is_stored_once_and_read_back_whole(house: House) -> None:
    message = scan(house, HOSTS)
    first, again = [await house.send("/api/v1/discovery", message) for _ in range(2)]
    assert (first.status, first.json) == (201, {"success": True})
    assert (again.status, again.json) == (200, {"success": True, "duplicate": True})
    expected = {
        "timestamp": "2026-02-25T10:00:00Z",
        "duration": 15230,
        "hosts": [HOSTS[0], {**HOSTS[1], "latency": None}],
    }
    history = (await house.get("/api/v1/discovery/a1")).json
    assert history == {"agentId": "a1", "discovery": [expected], "next": None}
    assert (await house.get("/api/v1/discovery/a1/latest")).json == {"agentId": "a1", "discovery": expected}


async def test_an_empty_scan_counts_as_a_scan(house: House) -> None:
    await house.send("/api/v1/discovery", scan(house, []))
    assert (await house.get("/api/v1/discovery/a1/latest")).json["discovery"]["hosts"] == []


async def test_scans_come_newest_first_by_the_page(house: House) -> None:
    for minutes in range(5):
        await house.send("/api/v1/discovery", scan(house, HOSTS, house.ago(minutes=minutes)))
    found: list[str] = []
    path = "/api/v1/discovery/a1?limit=2"
    while True:
        page = (await house.get(path)).json
        found += [entry["timestamp"] for entry in page["discovery"]]
        assert all(len(entry["hosts"]) == 2 for entry in page["discovery"])
        if page["next"] is None:
            break
        path = f"/api/v1/discovery/a1?limit=2&cursor={page['next']}"
    assert found == sorted(found, reverse=True)
    assert len(found) == 5


async def test_an_agent_without_scans_has_none_and_an_unknown_one_is_not_found(house: House) -> None:
    assert (await house.get("/api/v1/discovery/a1/latest")).json == {"agentId": "a1", "discovery": None}
    for path in ("/api/v1/discovery/nobody", "/api/v1/discovery/nobody/latest"):
        assert (await house.get(path)).status == 404


async def test_a_bad_scan_is_refused_and_nothing_of_it_stored(house: House) -> None:
    for host in ({"ip": "300.1.1.1"}, {"ports": [70_000]}, {"latency": 3_000_000_000}):
        answer = await house.send("/api/v1/discovery", scan(house, [HOSTS[0], {**HOSTS[0], **host}]))
        assert (answer.status, answer.json["reason"]) == (400, "invalid")
    assert (await house.get("/api/v1/discovery/a1")).json["discovery"] == []


async def test_metrics_are_no_scan(house: House) -> None:
    answer = await house.send("/api/v1/discovery", house.sign(house.sample()))
    assert (answer.status, answer.json["reason"]) == (400, "invalid")
