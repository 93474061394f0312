"""Receipts: up to which message of its spool an agent need keep nothing (contract, section 4).

They are sent with QoS 0 and once: an agent that misses one sends its messages again, and each message that
comes, also one that is settled already, brings it the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice

from pingup.clock import Clock
from pingup.model import AgentKey, Run
from pingup.ports import Downlink
from pingup.services.downward import Downward
from pingup.services.keyring import Keyring
from pingup.services.ledger import Ledger, Stream
from pingup.topics import down_receipts

EVERY = 1.0  # seconds between two receipts for one agent
# Of a very large fleet they take turns; an agent sends again only what had none for a minute.
MOST = 2_000  # receipts in a turn
_TURNS = 20  # that an agent waits for, at most
_BREATH_EVERY = 100  # receipts that are signed before others get their turn


class Receipts:
    """Enters what is settled into the ledger, and sends receipts for it: to an agent at most one a second."""

    def __init__(
        self, ledger: Ledger, keyring: Keyring, downward: Downward, downlink: Downlink, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._keyring = keyring
        self._downward = downward
        self._downlink = downlink
        self._clock = clock
        # By agent, the streams that wait for their turn.
        self._owed: dict[str, dict[str, None]] = {}
        self._work = asyncio.Event()

    def settle(self, runs: Iterable[Run]) -> None:
        """Messages are committed, or their refusals are: their senders are to learn of it."""
        for run in runs:
            self._ledger.settle(run)
            self._owed.setdefault(run.agent_id, {})[run.stream] = None
        if self._owed:
            self._work.set()

    async def run(self) -> None:
        """Send at once after a pause, and together what comes within a second of it, until cancelled."""
        while True:
            await self._work.wait()
            await self.send()
            await asyncio.sleep(EVERY)

    async def send(self) -> None:
        """Send agents that are owed receipts one of them each: those that have waited longest."""
        turn = list(islice(self._owed, max(MOST, len(self._owed) // _TURNS)))
        for count, agent_id in enumerate(turn, 1):
            names = self._owed.pop(agent_id)
            name = next(iter(names))
            del names[name]
            self._send(agent_id, name)
            if names:
                self._owed[agent_id] = names
            if count % _BREATH_EVERY == 0:
                await asyncio.sleep(0)
        if not self._owed:
            self._work.clear()

    def _send(self, agent_id: str, name: str) -> None:
        key = self._keyring.key_of(agent_id)
        stream = self._ledger.stream(agent_id, name)
        # The agent may have been removed, and its first messages may be missing still.
        if key is not None and stream is not None and stream.settled > 0:
            self._downlink.emit(down_receipts(agent_id), self._receipt(key, stream))

    def _receipt(self, key: AgentKey, stream: Stream) -> bytes:
        members: dict[str, object] = {
            "agentId": key.agent_id,
            "stream": stream.name,
            "seq": stream.settled,
            "updatedAt": self._clock.now(),
        }
        return self._downward.sign(key, members, "receipt").message()
