"""Tasks have an owner: a failure is heard of, and none outlives its context."""

from __future__ import annotations

import asyncio

import pytest

from pingup.crew import Crew


async def fail() -> None:
    raise ValueError("broken")


async def test_a_failing_task_is_heard_of() -> None:
    async with Crew.open() as crew, asyncio.timeout(5):
        crew.create_task(fail())
        with pytest.raises(ValueError, match="broken"):
            await crew.until(asyncio.Event())


async def test_until_returns_when_the_event_comes_first() -> None:
    event = asyncio.Event()
    async with Crew.open() as crew, asyncio.timeout(5):
        crew.create_task(asyncio.Event().wait())
        event.set()
        await crew.until(event)


async def test_no_task_outlives_its_crew() -> None:
    async with Crew.open() as crew:
        task = crew.create_task(asyncio.Event().wait())
    assert task.cancelled()


async def test_the_bodys_own_exception_comes_through_as_it_is() -> None:
    async def stumble() -> None:
        async with Crew.open() as crew:
            crew.create_task(asyncio.Event().wait())
            raise KeyError

    with pytest.raises(KeyError):
        await stumble()


async def test_a_failure_that_nobody_asked_for_does_not_hide_the_bodys_end() -> None:
    async with Crew.open() as crew, asyncio.timeout(5):
        task = crew.create_task(fail())
        await asyncio.wait([task])
