"""Which number a message settles: one that is stored, or one that is refused for good."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from pingup import codec, signing
from pingup.errors import Reason, Rejected
from pingup.model import AgentKey, Fate, Inbound, Numbering, Record, Run
from pingup.topics import Kind

# What may come from anybody settles nothing.
_UNPROVEN = frozenset({Reason.UNKNOWN_AGENT, Reason.NO_SIGNATURE, Reason.BAD_SIGNATURE})


def stored(inbound: Inbound, numbering: Numbering, records: Sequence[Record]) -> Run:
    """The number of a message of which at least one record is taken."""
    oldest = newest = records[0].timestamp
    if len(records) > 1:
        moments = [record.timestamp for record in records]
        oldest, newest = min(moments), max(moments)
    return Run(
        inbound.agent_id,
        numbering.stream,
        Fate.STORED,
        low=numbering.seq,
        high=numbering.seq,
        first=numbering.first,
        low_at=oldest,
        high_at=newest,
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


def merged(runs: Iterable[Run]) -> list[Run]:
    """The same in fewer runs: each is joined to the last one of its stream and fate if it follows it.

    They come in the order of the last that each has taken in.
    """
    last: dict[tuple[str, str, bool], _Chain] = {}
    chains: list[_Chain] = []
    position = -1
    for position, run in enumerate(runs):
        # The fate as a truth, because an enumeration is hashed in Python.
        key = (run.agent_id, run.stream, run.fate is Fate.STORED)
        chain = last.get(key)
        if chain is None or not chain.low <= run.low <= chain.high + 1:
            chain = last[key] = _Chain(run)
            chains.append(chain)
        else:
            chain.add(run)
        chain.position = position
    if len(chains) <= position:
        chains.sort(key=attrgetter("position"))
    return [chain.run() for chain in chains]


class _Chain:
    """Runs that follow each other, on the way to be one."""

    __slots__ = ("_begin", "_first", "_high_at", "_is_one", "_received_at", "high", "low", "position")

    def __init__(self, run: Run) -> None:
        self._begin = run
        self._is_one = True
        self.position = 0
        self.low, self.high = run.low, run.high
        self._first, self._high_at, self._received_at = run.first, run.high_at, run.received_at

    def add(self, run: Run) -> None:
        self._is_one = False
        if run.high > self.high:
            self.high, self._high_at = run.high, run.high_at
        if run.first > self._first:
            self._first = run.first
        if run.received_at > self._received_at:
            self._received_at = run.received_at

    def run(self) -> Run:
        begin = self._begin
        if self._is_one:
            return begin
        return Run(
            begin.agent_id,
            begin.stream,
            begin.fate,
            self.low,
            self.high,
            self._first,
            begin.low_at,
            self._high_at,
            self._received_at,
        )
