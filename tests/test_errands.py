"""Errands: each name is served soon, never twice at a time, and again if called meanwhile."""

from __future__ import annotations

import asyncio

from pingup.crew import Crew
from pingup.errors import Unavailable
from pingup.services.errands import MAX_SIDE_BY_SIDE, Errands


async def test_a_name_called_while_it_is_served_is_served_once_more() -> None:
    served: list[str] = []
    gate, entered, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def serve(name: str) -> None:
        served.append(name)
        entered.set()
        await gate.wait()
        if len(served) == 2:
            done.set()

    errands = Errands(serve)
    async with Crew.open() as crew, asyncio.timeout(5):
        crew.create_task(errands.run())
        errands.call("a")
        await entered.wait()
        errands.call("a")
        errands.call("a")
        await asyncio.sleep(0)
        assert served == ["a"]
        gate.set()
        await done.wait()
        assert served == ["a", "a"]


async def test_many_names_are_served_side_by_side_but_bounded() -> None:
    now, most, finished = 0, 0, 0
    all_done = asyncio.Event()

    async def serve(name: str) -> None:
        nonlocal now, most, finished
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        finished += 1
        if finished == 300:
            all_done.set()

    errands = Errands(serve)
    async with Crew.open() as crew, asyncio.timeout(5):
        crew.create_task(errands.run())
        for number in range(300):
            errands.call(str(number))
        await all_done.wait()
    assert most == MAX_SIDE_BY_SIDE


async def test_a_name_whose_store_is_down_is_served_again_later() -> None:
    served: list[str] = []
    done = asyncio.Event()

    async def serve(name: str) -> None:
        served.append(name)
        if len(served) < 3:
            raise Unavailable("disk full")
        done.set()

    errands = Errands(serve, retry_after=0.001)
    async with Crew.open() as crew, asyncio.timeout(5):
        running = crew.create_task(errands.run())
        errands.call("a")
        await done.wait()
        assert served == ["a"] * 3
        assert not running.done()
