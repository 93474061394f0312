"""Cold telemetry is sorted: nobody sees a difference, but that one agent's history is read faster."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pingup.errors import Unavailable
from pingup.model import Order, Sample, Scan, Span
from pingup.storage.duckdb import DuckDBTelemetry, migrate, sorting
from tests.contract.telemetry_examples import (
    NEVER_JOURNALED,
    START,
    Model,
    all_samples,
    all_scans,
    at,
    crashed,
    opened,
    place_after,
    sample,
    scan,
    start_process,
    store,
    ways,
)

DAY = 86_400
FOREVER = at(1000 * DAY)
MIDNIGHT = START.replace(hour=0)
AGENTS = ("A", "B", "C")


@pytest.fixture
async def telemetry(tmp_path: Path) -> AsyncIterator[DuckDBTelemetry]:
    """A store that has everything in its tables at once: only what is there is sorted."""
    async with opened(tmp_path, NEVER_JOURNALED) as store:
        yield store


async def sort_all(telemetry: DuckDBTelemetry) -> int:
    """Sort until there is nothing left to sort; how many stretches that were."""
    stretches = 0
    while await telemetry.sort(FOREVER):
        stretches += 1
    return stretches


def mixed(days: int, a_day: int, agents: Sequence[str] = AGENTS) -> list[Sample]:
    """Samples of some agents as they come, in the order of time."""
    every = DAY / a_day
    return [sample(agent, n * every, cpu=float(n)) for n in range(days * a_day) for agent in agents]


def agents_as_they_lie(file: Path) -> str:
    """The agents of all rows in the order of the file, without repeats side by side."""
    with duckdb.connect(file) as connection:
        rows = connection.execute("SELECT agent_id FROM metrics ORDER BY rowid").fetchall()
    agents = [agent for (agent,) in rows]
    return "".join(agent for agent, before in zip(agents, ["", *agents], strict=False) if agent != before)


# --- what it does ----------------------------------------------------------------------------------


async def test_days_that_have_ended_are_sorted_by_agent_and_others_are_left(tmp_path: Path) -> None:
    stored = mixed(days=3, a_day=5)
    async with opened(tmp_path, NEVER_JOURNALED) as telemetry:
        await store(telemetry, stored)
        # START is at ten o'clock.
        assert [await telemetry.sort(at(1.7 * DAY)) for _ in range(3)] == [True, True, False]
    lie = agents_as_they_lie(tmp_path / "analytics.duckdb")
    assert lie.endswith("ABCABC")
    assert lie.count("A") == 2 + sum(one.timestamp >= at(14 * 3600 + DAY) for one in stored) // 3


async def test_a_day_with_too_many_samples_is_sorted_by_parts(
    telemetry: DuckDBTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "_MOST", 40)
    stored = mixed(days=1, a_day=100)
    await store(telemetry, stored)
    assert await sort_all(telemetry) >= 300 / 40
    for agent in AGENTS:
        assert await all_samples(telemetry, agent) == [one for one in stored if one.agent_id == agent]


async def test_what_comes_late_is_stored_once_beside_what_is_sorted(telemetry: DuckDBTelemetry) -> None:
    stored = mixed(days=2, a_day=5)
    await store(telemetry, stored)
    await sort_all(telemetry)
    late = [sample(agent, 60, cpu=99.0) for agent in AGENTS]
    assert await store(telemetry, [*stored, *late, *late]) == [False] * 30 + [True] * 3 + [False] * 3
    found = await all_samples(telemetry)
    assert found == sorted(
        [one for one in (*stored, *late) if one.agent_id == "A"], key=lambda x: x.timestamp
    )


async def test_of_a_sorted_day_everything_is_kept_until_all_of_it_is_too_old(
    telemetry: DuckDBTelemetry,
) -> None:
    stored = mixed(days=3, a_day=4)
    await store(telemetry, stored)
    await sort_all(telemetry)
    unsorted = [sample("A", 10 * DAY + n) for n in range(2)]
    await store(telemetry, unsorted)
    await telemetry.forget(at(DAY), at(DAY))
    kept = [one for one in stored[::3] if one.timestamp >= MIDNIGHT + timedelta(days=1)]
    assert await all_samples(telemetry) == [*kept, *unsorted]
    await telemetry.forget(at(10 * DAY + 1), at(10 * DAY + 1))
    assert await all_samples(telemetry) == unsorted[1:]


async def test_records_of_one_moment_stay_in_the_order_of_their_storing(
    telemetry: DuckDBTelemetry,
) -> None:
    samples = [sample(agent, cpu=cpu) for cpu in (3.0, 1.0, 2.0) for agent in AGENTS]
    scans = [scan(agent, hosts=hosts) for hosts in (3, 1, 2) for agent in AGENTS]
    await store(telemetry, [*samples, *scans])
    assert await sort_all(telemetry) == 2
    await store(telemetry, [sample(cpu=0.5), scan(hosts=4)])
    assert await all_samples(telemetry) == [*samples[::3], sample(cpu=0.5)]
    assert await all_scans(telemetry) == [*scans[::3], scan(hosts=4)]


async def test_an_empty_store_has_nothing_to_sort(telemetry: DuckDBTelemetry) -> None:
    assert await telemetry.sort(FOREVER) is False


async def test_samples_with_many_further_metrics_stay_as_they_came(
    telemetry: DuckDBTelemetry,
) -> None:
    noise = Random(7)
    wide = [replace(one, extra=noise.randbytes(2500).hex()) for one in mixed(days=2, a_day=500)]
    await store(telemetry, wide)
    assert await sort_all(telemetry) > 0
    for agent in AGENTS:
        assert await all_samples(telemetry, agent) == [one for one in wide if one.agent_id == agent]


async def test_scans_are_sorted_and_come_back_whole(telemetry: DuckDBTelemetry) -> None:
    stored = [scan(agent, n * 3600, hosts=n % 4) for n in range(60) for agent in AGENTS]
    await store(telemetry, stored)
    assert await sort_all(telemetry) == 3
    for agent in AGENTS:
        assert await all_scans(telemetry, agent) == [one for one in stored if one.agent_id == agent]
    assert not any(await store(telemetry, stored))


# --- the same as without ---------------------------------------------------------------------------


moments = st.builds(lambda day, second: at(day * DAY + second), st.integers(0, 3), st.integers(0, 2))
records = st.one_of(
    st.builds(
        replace,
        st.builds(sample, st.sampled_from(AGENTS), st.just(0), st.sampled_from([None, 0.0, 1.0, 2.0])),
        timestamp=moments,
        extra=st.sampled_from([None, '{"load":1.0}', '{"name":"' + 300 * "x" + '"}']),
    ),
    st.builds(
        replace, st.builds(scan, st.sampled_from(AGENTS), st.just(0), st.integers(0, 2)), timestamp=moments
    ),
)
steps = st.one_of(
    st.tuples(st.just("store"), st.lists(records, max_size=15)),
    st.tuples(st.just("store"), st.lists(records, max_size=15)),
    st.tuples(st.just("sort"), moments),
    st.tuples(st.just("sort"), st.just(FOREVER)),
    st.tuples(st.just("purge"), st.sampled_from(AGENTS)),
    st.tuples(st.just("forget"), st.integers(-1, 4).map(lambda day: MIDNIGHT + timedelta(days=day))),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("crash"), st.none()),
)


@settings(deadline=None, max_examples=15)
@given(st.lists(steps, max_size=12), ways)
def test_sorting_at_any_moment_changes_nothing_that_one_can_see(
    script: list[tuple[str, object]], way: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as directory:
        patch.setattr(sorting, "_MOST", 12)
        patch.setattr(sorting, "_MOST_AT_ONCE", 3)
        asyncio.run(_play(Path(directory), script, way))


async def _play(directory: Path, script: list[tuple[str, object]], way: int) -> None:
    model = Model()
    remaining = list(script)
    while remaining:
        async with opened(directory, way) as telemetry:
            while remaining:
                step, value = remaining.pop(0)
                if step == "reopen":
                    break
                if step == "crash":
                    directory = await crashed(telemetry, directory)
                    break
                await _take(telemetry, model, step, value)
            await _compare(telemetry, model)


async def _take(telemetry: DuckDBTelemetry, model: Model, step: str, value: object) -> None:
    match step, value:
        case "store", list(some):
            assert await store(telemetry, some) == model.store(some)
        case "sort", before:
            while await telemetry.sort(before):  # type: ignore[arg-type] # a moment, as the strategy says
                pass
        case "purge", str(agent):
            await telemetry.purge(agent)
            model.keep(lambda one: one.agent_id != agent)
        case "forget", moment:
            await telemetry.forget(moment, moment)  # type: ignore[arg-type] # as above
            model.keep(lambda one: one.timestamp >= moment)  # type: ignore[operator] # as above


async def _compare(telemetry: DuckDBTelemetry, model: Model) -> None:
    for agent in AGENTS:
        for order in Order:
            assert await _pages(telemetry, agent, order) == model.history(Sample, agent, order)
            scans = await telemetry.scans(agent, Span(limit=100, order=order))
            assert scans == model.history(Scan, agent, order)


async def _pages(telemetry: DuckDBTelemetry, agent: str, order: Order) -> list[Sample]:
    """A history page by page, with a sort between the pages, which must move nothing."""
    found: list[Sample] = []
    place = None
    while page := await telemetry.samples(agent, Span(limit=4, order=order, after=place)):
        found += page
        place = place_after([one.timestamp for one in page], place)
        await telemetry.sort(at(DAY))
    return found


async def test_others_store_read_and_delete_while_it_sorts(
    telemetry: DuckDBTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "_MOST", 500)
    monkeypatch.setattr(sorting, "_MOST_AT_ONCE", 20)
    before, after = mixed(days=4, a_day=100), [sample("A", 10 * DAY + n) for n in range(100)]
    late = [sample("A", n * 600, cpu=500.0) for n in range(100)]
    await store(telemetry, before)
    sorted_all = asyncio.create_task(sort_all(telemetry))
    for new, old in zip(after, late, strict=True):
        assert await store(telemetry, [new, old]) == [True, True]
        assert (await telemetry.samples("A", Span(limit=1)))[0] == new
    await telemetry.purge("B")
    assert await sorted_all > 0
    tomorrow = MIDNIGHT + timedelta(days=1)
    await telemetry.forget(tomorrow, tomorrow)
    kept = [one for one in (*before, *late, *after) if one.agent_id == "A" and one.timestamp >= tomorrow]
    assert await all_samples(telemetry) == sorted(kept, key=lambda one: one.timestamp)
    assert await all_samples(telemetry, "B") == []


# --- crashes and ends ------------------------------------------------------------------------------

# Sorts what there is; tells of each statement before it is executed, and waits until it is told to go on.
SORTING = """
import asyncio, sys
from pathlib import Path
from pingup.storage.duckdb import DuckDBTelemetry, sorting
from tests.contract.test_telemetry_sorting import sort_all

sorting._MOST_AT_ONCE = 30
ask = sorting._ask

def ask_slowly(*question):
    print("asking", flush=True)
    sys.stdin.readline()
    return ask(*question)

async def main():
    telemetry = await DuckDBTelemetry.open(Path(sys.argv[1]))
    sorting._ask = ask_slowly
    await sort_all(telemetry)
    print("done", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


async def test_kill_9_between_any_two_statements_loses_and_doubles_nothing(tmp_path: Path) -> None:
    stored = mixed(days=1, a_day=20)
    async with opened(tmp_path) as telemetry:
        await store(telemetry, stored)
    line, number = "", 0
    while line != "done":
        number += 1
        with start_process(SORTING, tmp_path / "analytics.duckdb") as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for _ in range(number):
                process.stdin.write("\n")
                process.stdin.flush()
                line = process.stdout.readline().strip()
                if line == "done":
                    break
            process.kill()
        async with opened(tmp_path) as telemetry:
            assert telemetry.quarantined is None
            for agent in AGENTS:
                assert await all_samples(telemetry, agent) == [one for one in stored if one.agent_id == agent]


async def test_the_store_closes_soon_while_it_sorts_and_keeps_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portions, begun, closing = sorting._portions, threading.Event(), threading.Event()

    def slowly(agents: Sequence[sorting._Agent], stretch: sorting._Stretch) -> Iterator[sorting._Portion]:
        for portion in portions(agents, stretch):
            yield portion
            begun.set()
            closing.wait()

    monkeypatch.setattr(sorting, "_MOST_AT_ONCE", 3)
    monkeypatch.setattr(sorting, "_portions", slowly)
    stored = mixed(days=1, a_day=500)
    async with opened(tmp_path, NEVER_JOURNALED) as telemetry:
        await store(telemetry, stored)
        under_way = asyncio.create_task(telemetry.sort(FOREVER))
        await asyncio.to_thread(begun.wait)
        telemetry._sorter.stop()
        closing.set()
    assert await under_way is False
    async with opened(tmp_path) as telemetry:
        assert await all_samples(telemetry) == stored[::3]


async def test_a_stretch_that_somebody_deletes_from_meanwhile_is_sorted_later(tmp_path: Path) -> None:
    file = tmp_path / "analytics.duckdb"
    migrate(file)
    async with opened(tmp_path, NEVER_JOURNALED) as telemetry:
        stored = mixed(days=1, a_day=50)
        await store(telemetry, stored)
        with telemetry._database.cursor() as cursor:
            cursor.begin()
            cursor.execute("DELETE FROM metrics WHERE agent_id = 'B'")
            with pytest.raises(Unavailable):
                await telemetry.sort(FOREVER)
            cursor.commit()
        assert await all_samples(telemetry, "B") == []
        assert await sort_all(telemetry) == 2
        assert await all_samples(telemetry, "A") == [one for one in stored if one.agent_id == "A"]
        assert await all_samples(telemetry, "B") == []
