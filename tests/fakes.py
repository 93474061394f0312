"""Neighbours of the services that tests own. Stores and brokers have their real tests in tests/contract."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from pingup.errors import Unavailable, Unstorable
from pingup.model import Deposit, Record, Run, Sample, Scan, Span
from pingup.rollups import Bucket, Rollup


class MemoryTelemetry:
    """A telemetry store in a list. It can be made to wait, to be down, or to choke on a sample."""

    def __init__(self) -> None:
        self.batches: list[list[Record]] = []
        self.kept_runs: list[Run] = []
        self.tries = 0
        self.down: str | None = None
        self.poison: set[Record] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.failed_twice = asyncio.Event()

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch]

    async def store(self, deposit: Deposit) -> list[bool]:
        self.tries += 1
        self.entered.set()
        await self.gate.wait()
        if self.down is not None:
            if self.tries >= 2:
                self.failed_twice.set()
            raise Unavailable(self.down)
        records = deposit.records
        if self.poison.intersection(records):
            raise Unstorable("poison")
        self.kept_runs += deposit.runs
        known = set(self.records)
        flags = [record not in known for record in records]
        self.batches.append([record for record, is_new in zip(records, flags, strict=True) if is_new])
        return flags

    async def runs(self) -> list[Run]:
        return self.kept_runs

    async def samples(self, agent_id: str, span: Span) -> list[Sample]:
        return [one for one in self.records if isinstance(one, Sample) and one.agent_id == agent_id]

    async def buckets(self, agent_id: str, rollup: Rollup) -> list[Bucket]:
        return []

    async def newest_samples(self, agent_ids: Sequence[str] | None = None) -> list[Sample]:
        return []

    async def scans(self, agent_id: str, span: Span) -> list[Scan]:
        return [one for one in self.records if isinstance(one, Scan) and one.agent_id == agent_id]

    async def has(self, agent_id: str) -> bool:
        return any(record.agent_id == agent_id for record in self.records)

    async def newest(self) -> datetime | None:
        return max((record.timestamp for record in self.records), default=None)

    async def purge(self, agent_id: str) -> None: ...

    async def forget(self, samples_before: datetime, scans_before: datetime) -> None: ...

    async def sort(self, before: datetime) -> bool:
        return False

    async def check(self) -> None: ...


class MemoryDownlink:
    """A broker in a list: what was published, by topic; `listening` agents acknowledge what they get.

    Nobody watches the topics in `unwatched`.
    """

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, bool]] = []
        self.listening: set[str] = set()
        self.unwatched: set[str] = set()
        self.ended: list[str] = []
        self.kept: dict[str, bytes] = {}
        self.news = asyncio.Event()

    def on(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in self.published if name == topic]

    def retained(self, topic: str) -> list[bool]:
        return [retain for name, _, retain in self.published if name == topic]

    def is_listening(self, agent_id: str) -> bool:
        return agent_id in self.listening

    async def deliver(
        self, topic: str, payload: bytes, *, retain: bool = False, expires_at: datetime | None = None
    ) -> bool:
        self.emit(topic, payload, retain=retain)
        return topic.split("/")[3] in self.listening

    def is_watched(self, topic: str) -> bool:
        return topic not in self.unwatched

    def emit(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.published.append((topic, payload, retain))
        self.news.set()

    def keep(self, topic: str, payload: bytes) -> None:
        self.kept[topic] = payload

    def end_sessions(self, principal_id: str) -> None:
        self.ended.append(principal_id)
