"""A server on a free port over empty databases: one for each test, or one for all refusals of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import ManualClock
from tests.http.house import House, open_house


@pytest.fixture
async def house(tmp_path: Path, clock: ManualClock) -> AsyncIterator[House]:
    async with open_house(tmp_path, clock) as house:
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """For tests marked with `shared_server`, which must leave everything as it was."""
    clock = ManualClock(datetime(2026, 2, 25, 10, tzinfo=UTC))
    async with open_house(tmp_path_factory.mktemp("shared"), clock) as house:
        yield house
