"""What many tests need: a clock that they own, and services to look at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.house import House

pytest_plugins = ("tests.secrecy",)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def advance(self, **lapse: float) -> None:
        self.at += timedelta(**lapse)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 2, 25, 10, tzinfo=UTC))


@pytest.fixture
async def house(tmp_path: Path, clock: ManualClock) -> AsyncIterator[House]:
    from tests.house import open_house

    async with open_house(tmp_path, clock) as opened:
        yield opened
