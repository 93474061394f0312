"""What the tests of the embedded broker share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.broker_rig import Rig


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """A running embedded broker with its usual limits."""
    from tests.contract.broker_rig import open_rig

    async with open_rig() as opened:
        yield opened
