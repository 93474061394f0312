"""What the tests of the MQTT 5 session share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.session.peer import Inbox, ScriptedBroker


@pytest.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with ScriptedBroker.open() as opened:
        yield opened


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()
