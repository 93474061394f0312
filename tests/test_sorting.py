"""When cold telemetry is sorted: once a stretch has ended, with pauses, and again after a failure."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from pingup.errors import Unavailable
from pingup.services import sorting
from pingup.services.sorting import Sorting
from tests.conftest import ManualClock
from tests.fakes import MemoryTelemetry


class Stretches(MemoryTelemetry):
    """A store with stretches to sort that end at these moments."""

    def __init__(self, *ends: datetime) -> None:
        super().__init__()
        self.ends = list(ends)
        self.was_down, self.was_sorted = asyncio.Event(), asyncio.Event()

    async def sort(self, before: datetime) -> bool:
        if self.down is not None:
            self.was_down.set()
            raise Unavailable(self.down)
        if not self.ends or self.ends[0] > before:
            return False
        del self.ends[0]
        self.was_sorted.set()
        return True


async def test_a_stretch_is_sorted_an_hour_after_it_has_ended(clock: ManualClock) -> None:
    telemetry = Stretches(clock.now())
    task = Sorting(telemetry, clock)
    clock.advance(minutes=59)
    await task.step()
    assert telemetry.ends
    clock.advance(minutes=1)
    await task.step()
    assert not telemetry.ends


async def test_stretches_are_sorted_one_by_one_with_pauses_and_then_it_rests(clock: ManualClock) -> None:
    long_ago = clock.now() - timedelta(days=2)
    telemetry = Stretches(long_ago, long_ago)
    task = Sorting(telemetry, clock)
    pauses = [await task.step() for _ in range(3)]
    assert pauses[0] >= 1
    assert pauses[:2] < [pauses[2]] * 2
    assert telemetry.ends == []


async def test_a_store_that_is_down_is_asked_again_later(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sorting, "_FIRST", 0)
    monkeypatch.setattr(sorting, "_EVERY", 0)
    telemetry = Stretches(clock.now() - timedelta(days=2))
    telemetry.down = "the disk is full"
    async with asyncio.timeout(10):
        running = asyncio.create_task(Sorting(telemetry, clock).run())
        await telemetry.was_down.wait()
        telemetry.down = None
        await telemetry.was_sorted.wait()
    running.cancel()
    assert "the disk is full" in caplog.text
    assert telemetry.ends == []
