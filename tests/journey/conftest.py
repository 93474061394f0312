"""A running server for the journeys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.journey.program import BROKER, MOSQUITTO, Running, serving

# A few journeys are always made over Mosquitto too; `PINGUP_TEST_BROKER=mosquitto` makes them all.
OVER_BOTH = pytest.mark.parametrize(
    "server",
    [BROKER, *([] if BROKER == MOSQUITTO else [pytest.param(MOSQUITTO, marks=pytest.mark.mosquitto)])],
    indirect=True,
)


@pytest.fixture
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    """A server that is ready; a test may name the broker that it has."""
    async with serving(tmp_path / "data", broker=getattr(request, "param", BROKER)) as running:
        yield running
