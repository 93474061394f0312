"""The houses that the suite runs over: each kind is built once, and its tests share it.

So a test brings its own agents, and looks for its own messages only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.contract.brokers.houses import House
from tests.contract.brokers.kinds import DynsecHouse, EmbeddedHouse, FilesHouse

OUTSIDE = [
    pytest.param(FilesHouse, id="mosquitto-files", marks=pytest.mark.mosquitto),
    pytest.param(DynsecHouse, id="mosquitto-dynsec", marks=pytest.mark.mosquitto),
]
KINDS = [pytest.param(EmbeddedHouse, id="embedded"), *OUTSIDE]


@pytest_asyncio.fixture(scope="package", loop_scope="package", params=KINDS)
async def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """A running Pingup over one kind of broker."""
    kind: type[House] = request.param
    async with kind.open(tmp_path_factory.mktemp("house")) as opened:
        yield opened
