"""A broker that knows nobody but its administrator, and what brings accounts there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pingup.brokers.dynsec import DynsecAccounts
from tests.dynsec.cast import store_at
from tests.mosquitto import Dynsec, running_dynsec


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Dynsec]:
    directory = tmp_path / "broker"
    directory.mkdir()
    async with running_dynsec(directory) as broker:
        yield broker


@pytest.fixture
async def store(broker: Dynsec) -> AsyncIterator[DynsecAccounts]:
    store = store_at(broker)
    yield store
    await store.rest()
