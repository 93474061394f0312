"""Which number a message settles: one that is stored, or one that is refused for good."""

from __future__ import annotations

from collections.abc import Sequence

from pingup import codec, signing
from pingup.errors import Reason, Rejected
from pingup.model import AgentKey, Fate, Inbound, Numbering, Record, Run
from pingup.topics import Kind

# What may come from anybody settles nothing.
_UNPROVEN = frozenset({Reason.UNKNOWN_AGENT, Reason.NO_SIGNATURE, Reason.BAD_SIGNATURE})


def stored(inbound: Inbound, numbering: Numbering, records: Sequence[Record]) -> Run:
    """The number of a message of which at least one record is taken."""
    moments = [record.timestamp for record in records]
    return Run(
        agent_id=inbound.agent_id,
        stream=numbering.stream,
        fate=Fate.STORED,
        low=numbering.seq,
        high=numbering.seq,
        first=numbering.first,
        low_at=min(moments),
        high_at=max(moments),
        received_at=inbound.received_at,
    )


def refused(inbound: Inbound, reason: Reason, key: AgentKey | None) -> Run | None:
    """The number of a refused message, if its agent has signed it, however wrong the rest may be."""
    if reason in _UNPROVEN or key is None or inbound.kind not in (Kind.METRICS, Kind.DISCOVERY):
        return None
    try:
        # Not every refusal comes after this.
        signing.verify(inbound.payload, key)
    except Rejected:
        return None
    numbering = codec.numbering_of(inbound.payload)
    if numbering is None:
        return None
    return Run(
        agent_id=inbound.agent_id,
        stream=numbering.stream,
        fate=Fate.REFUSED,
        low=numbering.seq,
        high=numbering.seq,
        first=numbering.first,
        low_at=inbound.received_at,
        high_at=inbound.received_at,
        received_at=inbound.received_at,
    )
