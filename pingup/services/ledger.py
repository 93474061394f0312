"""Which numbered messages of each agent came: up to where nothing is open, and what is missing in between.

A number is settled once its message is stored or refused, or once it lies below the agent's `first`: then
the agent has given it up. What is here follows the store and never runs ahead of it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from pingup.model import Fate, Run
from pingup.services.runs import EPOCH, Interval, Runs, micros

MAX_STREAMS = 16


class Stream:
    """What is known of one stream.

    `settled` is the number up to which every one is settled; it never goes back. `first` is the highest that
    the agent has named, `updated_at` when it was last heard of, by the server's clock.
    """

    __slots__ = ("first", "name", "refused", "settled", "stored", "updated_at")

    def __init__(self, name: str) -> None:
        self.name = name
        self.settled = 0
        self.first = 1
        self.stored = Runs()
        self.refused = Runs()
        self.updated_at = EPOCH

    @property
    def highest(self) -> int:
        """The highest number that was heard of."""
        return max(self.stored.highest, self.refused.highest, self.first - 1)

    def settle(self, run: Run) -> None:
        """Take in messages that are stored, or whose refusal is."""
        if run.first > self.first:
            self.first = run.first
        if run.received_at > self.updated_at:
            self.updated_at = run.received_at
        if run.low == self.settled + 1 and run.fate is Fate.STORED and self._goes_on(run):
            return
        runs = self.stored if run.fate is Fate.STORED else self.refused
        runs.add(Interval(run.low, run.high, micros(run.low_at), micros(run.high_at)))
        self._advance()
        # Only now: what is settled already is known without its run.
        runs.forget_beyond()

    def _goes_on(self, run: Run) -> bool:
        """Take in what follows all that was heard of, as nearly every message does; False if it does not."""
        if self.refused.highest > run.high or not self.stored.extend(run.low, run.high, micros(run.high_at)):
            return False
        self.settled = max(run.high, self.first - 1)
        return True

    def _advance(self) -> None:
        settled = max(self.settled, self.first - 1)
        while (reach := max(self.stored.reach(settled + 1), self.refused.reach(settled + 1))) > settled:
            settled = reach
        self.settled = settled


class Ledger:
    """The streams of all agents; of each agent the 16 that were heard of last."""

    def __init__(self) -> None:
        # By agent and name; the stream that was heard of last is the last one.
        self._streams: dict[str, dict[str, Stream]] = {}

    def load(self, runs: Collection[Run]) -> None:
        """Take in what is stored, at the start."""
        heard: dict[tuple[str, str], datetime] = {}
        for run in runs:
            stream = (run.agent_id, run.stream)
            heard[stream] = max(run.received_at, heard.get(stream, EPOCH))
        # Streams by their age and runs from below, so that the bounds take what they take while it runs.
        for run in sorted(runs, key=lambda run: (heard[run.agent_id, run.stream], run.low)):
            self.settle(run)

    def settle(self, run: Run) -> None:
        """Take in messages that are stored, or whose refusal is."""
        streams = self._streams.setdefault(run.agent_id, {})
        stream = streams.get(run.stream)
        if stream is None or len(streams) > 1:
            streams.pop(run.stream, None)
            stream = streams[run.stream] = stream or Stream(run.stream)
            if len(streams) > MAX_STREAMS:
                del streams[next(iter(streams))]
        stream.settle(run)

    def streams(self, agent_id: str) -> list[Stream]:
        """An agent's streams, the one heard of last first; none when it does not number its messages."""
        streams = self._streams.get(agent_id)
        return [] if streams is None else list(reversed(streams.values()))

    def stream(self, agent_id: str, name: str) -> Stream | None:
        """One stream of an agent."""
        streams = self._streams.get(agent_id)
        return None if streams is None else streams.get(name)

    def forget(self, agent_id: str) -> None:
        """Forget an agent whose telemetry is deleted."""
        self._streams.pop(agent_id, None)

    def forget_untouched(self, before: datetime) -> None:
        """Forget streams of which nothing was heard since."""
        for agent_id, streams in list(self._streams.items()):
            for name in [name for name, stream in streams.items() if stream.updated_at < before]:
                del streams[name]
            if not streams:
                del self._streams[agent_id]
