"""After the commit: everybody who wants to know is told, a whole transaction at a time."""

from __future__ import annotations

from datetime import datetime
from itertools import compress

from pingup.model import Inbound, Outcome, SampleVerdict
from pingup.services.batching import Offer, Stored
from pingup.services.keyring import Keyring
from pingup.services.live import Live
from pingup.services.presence import Presence
from pingup.services.receipts import Receipts
from pingup.services.rejects import Rejects
from pingup.services.timekeeping import Timekeeper


class Announcer:
    """Tells senders, the clock's watch, presence, the ledger with its receipts, and those who look on."""

    def __init__(
        self,
        timekeeper: Timekeeper,
        presence: Presence,
        receipts: Receipts,
        live: Live,
        rejects: Rejects,
        keyring: Keyring,
    ) -> None:
        self._timekeeper = timekeeper
        self._presence = presence
        self._receipts = receipts
        self._live = live
        self._rejects = rejects
        self._keyring = keyring

    def announce(self, stored: Stored) -> None:
        """What was stored."""
        _tell_senders(stored)
        records = stored.deposit.records
        heard: dict[str, datetime] = {}
        for offer in stored.offers:
            agent_id, at = offer.inbound.agent_id, offer.inbound.received_at
            # Without records it is the number of a message that was refused.
            if offer.records and at >= heard.get(agent_id, at):
                heard[agent_id] = at
            for verdict in offer.verdicts:
                self._note(offer.inbound, verdict)
        if records:
            self._timekeeper.witness(max([record.timestamp for record in records]))
        for agent_id, at in heard.items():
            self._presence.heard(agent_id, at)
        self._receipts.settle(stored.deposit.runs)
        new = records if all(stored.is_new) else list(compress(records, stored.is_new))
        # What is retained of an agent that was removed in the meantime has been cleared already.
        present = {agent_id for agent_id in heard if self._keyring.key_of(agent_id) is not None}
        if len(present) < len(heard):
            new = [record for record in new if record.agent_id in present]
        self._live.stored(new)

    def _note(self, inbound: Inbound, verdict: SampleVerdict) -> None:
        detail = f"sample {verdict.index}: {verdict.detail}"
        self._rejects.note(
            agent_id=inbound.agent_id, source=inbound.source, reason=verdict.reason, detail=detail
        )


def _tell_senders(stored: Stored) -> None:
    """Tell each sender that waits for it alone what became of its message."""
    start = 0
    for offer in stored.offers:
        end = start + len(offer.records)
        if offer.future is not None and not offer.future.done():
            offer.future.set_result(_outcome(offer, stored.is_new[start:end]))
        start = end


def _outcome(offer: Offer, is_new: list[bool]) -> Outcome:
    new = sum(is_new)
    return Outcome(new, len(is_new) - new, offer.verdicts, offer.batch)
