"""Receipts: up to which message of its spool an agent need keep nothing (contract, section 4).

They are sent with QoS 0 and once: an agent that misses one sends its messages again, and each message that
comes, also one that is settled already, brings it the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pingup.clock import Clock
from pingup.model import AgentKey, Run
from pingup.ports import Downlink
from pingup.services.downward import Downward
from pingup.services.keyring import Keyring
from pingup.services.ledger import Ledger, Stream
from pingup.topics import down_receipts

EVERY = 1.0  # seconds between two receipts for one agent
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
        """Send every agent that is owed receipts one of them."""
        owed, self._owed = self._owed, {}
        self._work.clear()
        for count, (agent_id, names) in enumerate(owed.items(), 1):
            name = next(iter(names))
            del names[name]
            self._send(agent_id, name)
            if names:
                self._owe_later(agent_id, names)
            if count % _BREATH_EVERY == 0:
                await asyncio.sleep(0)

    def _owe_later(self, agent_id: str, names: dict[str, None]) -> None:
        """Put the streams that have waited longer before those that came in the meantime."""
        self._owed[agent_id] = names | self._owed.get(agent_id, {})
        self._work.set()

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
