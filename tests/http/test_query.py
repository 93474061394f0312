"""Times, pages and cursors: every record once, whatever the page size, and no cursor but our own."""

from __future__ import annotations

import base64
import contextlib
import string
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pingup.errors import Invalid
from pingup.http import cursors
from pingup.http.query import parse_moment
from tests.http.house import House, shared_server

NOW = datetime(2026, 2, 25, 10, tzinfo=UTC)
moments = st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-02-25T10:00:00Z", NOW),
        ("2026-02-25T11:00:00+01:00", NOW),
        ("2026-02-25T10:00:00.000001Z", NOW + timedelta(microseconds=1)),
        ("1772013600", NOW),
        ("1772013600.5", NOW + timedelta(seconds=0.5)),
        ("1772013600.000001", NOW + timedelta(microseconds=1)),
        ("0", datetime(1970, 1, 1, tzinfo=UTC)),
        ("now", NOW),
        ("-1h", NOW - timedelta(hours=1)),
        ("-30d", NOW - timedelta(days=30)),
        ("-90s", NOW - timedelta(seconds=90)),
    ],
)
def test_a_time_has_three_forms(text: str, expected: datetime) -> None:
    assert parse_moment(text, NOW) == expected


@given(moment=moments, hours=st.integers(-12, 12))
def test_any_time_with_an_offset_is_read_back_exactly(moment: datetime, hours: int) -> None:
    try:
        text = moment.astimezone(timezone(timedelta(hours=hours))).isoformat()
    except OverflowError:
        return
    assert parse_moment(text, NOW) == moment


@given(moment=moments)
def test_any_time_in_seconds_is_read_back_exactly(moment: datetime) -> None:
    lapse = moment - datetime(1970, 1, 1, tzinfo=UTC)
    text = f"{lapse.days * 86400 + lapse.seconds}.{lapse.microseconds:06}"
    assert parse_moment(text, NOW) == moment


@given(text=st.text(alphabet=string.printable) | st.text())
def test_any_text_is_a_time_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError, OverflowError):
        assert parse_moment(text, NOW).tzinfo is UTC


@shared_server
@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "1h", "-1", "-1x", "-0h", "1e9", "NaN", "٣", "99999999999999", "1772013600000"),
        *("2026-02-25", "2026-02-25T10:00:00", "0001-01-01T00:00:00+05:00", "2026-13-01T00:00:00Z"),
    ],
)
async def test_a_bad_time_is_refused_by_field(shared: House, text: str) -> None:
    for name in ("from", "to"):
        answer = await shared.get(f"/api/v1/metrics/a1?{name}={quote(text)}")
        assert (answer.status, list(answer.json["errors"])) == (400, [name]), text


async def test_a_plus_that_was_not_escaped_is_still_a_plus(house: House) -> None:
    await house.store()
    answer = await house.get("/api/v1/metrics/a1?from=2026-02-25T11:00:00+01:00")
    assert len(answer.json["metrics"]) == 1


@shared_server
async def test_a_range_that_ends_before_it_begins_is_refused(shared: House) -> None:
    answer = await shared.get("/api/v1/metrics/a1?from=-1h&to=-2h")
    assert (answer.status, list(answer.json["errors"])) == (400, ["from"])


@shared_server
@pytest.mark.parametrize("path", ["/api/v1/metrics/a1", "/api/v1/discovery/a1"])
@pytest.mark.parametrize(
    "question",
    ["limit=0", "limit=10001", "limit=ten", "limit=", "order=up", "cursor=", "cursor=x"],
)
async def test_what_a_history_cannot_do_is_refused_by_field(shared: House, path: str, question: str) -> None:
    answer = await shared.get(f"{path}?{question}")
    assert (answer.status, list(answer.json["errors"])) == (400, [question.split("=")[0]])


@shared_server
@pytest.mark.parametrize("question", ["step=1m", "agg=avg", "fields=cpu"])
async def test_scans_are_not_rolled_up_and_the_call_says_so(shared: House, question: str) -> None:
    answer = await shared.get(f"/api/v1/discovery/a1?{question}")
    assert (answer.status, list(answer.json["errors"])) == (400, [question.split("=")[0]])


@shared_server
@pytest.mark.parametrize("path", ["/api/v1/metrics/a1", "/api/v1/metrics", "/api/v1/discovery/a1/latest"])
async def test_what_is_not_json_is_406(shared: House, path: str) -> None:
    assert (await shared.get(f"{path}?format=csv")).status == 406
    assert (await shared.get(path, Accept="text/csv")).status == 406
    assert (await shared.get(f"{path}?format=json&unknown=1")).status == 200
    assert (await shared.get(path, Accept="text/html, */*;q=0.1")).status == 200


@shared_server
@pytest.mark.parametrize("limit", [1, 10_000])
async def test_the_bounds_of_a_limit_are_within_it(shared: House, limit: int) -> None:
    assert (await shared.get(f"/api/v1/metrics/a1?limit={limit}")).status == 200


# --- pages -----------------------------------------------------------------------------------------


async def pages(house: House, question: str, limit: int) -> AsyncIterator[list[float]]:
    path = f"/api/v1/metrics/a1?limit={limit}{question}"
    cursor = ""
    for _ in range(20):
        page = (await house.get(path + cursor)).json
        yield [sample["cpu"] for sample in page["metrics"]]
        if page["next"] is None:
            return
        cursor = f"&cursor={page['next']}"
    pytest.fail("the pages have no end")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seconds=st.lists(st.integers(0, 3), max_size=12),
    limit=st.integers(1, 5),
    order=st.sampled_from(["asc", "desc"]),
)
async def test_paging_neither_loses_nor_doubles_a_sample(
    house: House, seconds: list[int], limit: int, order: str
) -> None:
    """Many samples share a moment, so pages end in the midst of one."""
    await house.telemetry.purge("a1")
    for number, second in enumerate(seconds):
        await house.store(at=house.ago(seconds=second), cpu=number)
    found = [page async for page in pages(house, f"&order={order}", limit)]
    assert sorted(cpu for page in found for cpu in page) == list(range(len(seconds)))
    assert all(len(page) == limit for page in found[:-1])
    ages = [seconds[int(cpu)] for page in found for cpu in page]
    assert ages == sorted(ages, reverse=order == "asc")


async def test_samples_that_come_in_between_shift_no_page(house: House) -> None:
    for second in range(4):
        await house.store(at=house.ago(seconds=second), cpu=second)
    walk = pages(house, "", 2)
    assert await anext(walk) == [0, 1]
    house.clock.advance(seconds=1)
    await house.store(cpu=99)
    assert [page async for page in walk] == [[2, 3]]


async def test_a_cursor_keeps_the_range_of_its_first_page(house: House) -> None:
    for minutes in range(4):
        await house.store(at=house.ago(minutes=minutes), cpu=minutes)
    walk = pages(house, "&from=-3m&order=asc", 1)
    assert await anext(walk) == [3]
    house.clock.advance(minutes=2)
    assert [page async for page in walk] == [[2], [1], [0]]


async def test_a_cursor_of_another_history_or_order_is_refused(house: House) -> None:
    for second in range(2):
        for agent_id in ("a1", "b2"):
            await house.store(agent_id, at=house.ago(seconds=second), cpu=1)
    cursor = (await house.get("/api/v1/metrics/a1?limit=1")).json["next"]
    assert (await house.get(f"/api/v1/metrics/a1?cursor={cursor}&order=desc")).status == 200
    for path in (
        f"/api/v1/metrics/b2?cursor={cursor}",
        f"/api/v1/metrics/a1?cursor={cursor}&order=asc",
        f"/api/v1/discovery/a1?cursor={cursor}",
        f"/api/v1/agents?cursor={cursor}",
        f"/api/v1/commands?cursor={cursor}",
    ):
        assert (await house.get(path)).status == 400, path


@given(
    place=st.text(max_size=50),
    position=st.integers(0, 200),
    letter=st.sampled_from(string.ascii_letters + "-_=+/ "),
)
def test_a_changed_cursor_is_refused(place: str, position: int, letter: str) -> None:
    cursor = cursors.make("/path", place)
    position %= len(cursor)
    changed = cursor[:position] + letter + cursor[position + 1 :]
    if changed == cursor:
        assert cursors.read("/path", changed, str) == place
        return
    with pytest.raises(Invalid):
        cursors.read("/path", changed, str)


@given(moment=st.datetimes(timezones=st.just(UTC)))
def test_any_moment_survives_a_cursor(moment: datetime) -> None:
    cursor = cursors.make("/path", cursors.micros(moment))
    assert cursors.moment(cursors.read("/path", cursor, cursors.Micros)) == moment


@pytest.mark.parametrize("path", ["/api/v1/metrics/a1", "/api/v1/agents", "/api/v1/commands"])
@shared_server
async def test_a_forged_cursor_is_refused(shared: House, path: str) -> None:
    places: tuple[Any, ...] = (
        ["desc", None, None, 10**30, 1],
        ["desc", None, None, 0, 10**30],
        ["desc", None, 10**18, 0, 1],
        ["up", None, None, 0, 1],
        [10**30, "x"],
        [0, None],
        None,
        {},
    )
    for place in places:
        answer = await shared.get(f"{path}?cursor={cursors.make(path, place)}")
        assert (answer.status, list(answer.json["errors"])) == (400, ["cursor"]), place


@shared_server
async def test_a_cursor_that_is_nested_too_deep_for_any_parser_is_refused(shared: House) -> None:
    payload = b'["desc",null,null,0,1,' + b"[" * 2500 + b"]" * 2501
    cursor = base64.urlsafe_b64encode(bytes(8) + payload).decode().rstrip("=")
    assert (await shared.get(f"/api/v1/metrics/a1?cursor={cursor}")).status == 400


@given(cursor=st.text())
def test_any_text_is_no_cursor(cursor: str) -> None:
    with pytest.raises(Invalid):
        cursors.read("/path", cursor, str)
