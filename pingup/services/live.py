"""What people and tools may watch: everything that was taken, as plain JSON, after it is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from pingup import codec
from pingup.clock import Clock
from pingup.model import Command, Presence, Record, Sample, Scan
from pingup.ports import Downlink
from pingup.topics import Live as Topic
from pingup.topics import live

SNAPSHOT_EVERY = timedelta(seconds=1)


class _Snapshot(msgspec.Struct, frozen=True):
    """When an agent's next snapshot is due by the server's clock, and the newest moment shown by its own."""

    due: datetime
    shows: datetime


class Live:
    """Publishes on the live topics, QoS 0; retains presence, and metrics at most once a second and agent."""

    def __init__(self, clock: Clock, downlink: Downlink) -> None:
        self._clock = clock
        self._downlink = downlink
        self._snapshots: dict[str, _Snapshot] = {}
        self._overtaken: dict[str, Sample] = {}

    def stored(self, records: Iterable[Record]) -> None:
        """Show new records."""
        for record in records:
            if isinstance(record, Sample):
                self._show_sample(record)
            else:
                self._show_scan(record)

    def presence(self, agent_id: str, status: Presence, last_seen: datetime | None, at: datetime) -> None:
        """Show that an agent came or went."""
        shown = {"agentId": agent_id, "status": status, "lastSeen": last_seen, "at": at}
        self._downlink.emit(live(agent_id, Topic.PRESENCE), codec.encode(shown), retain=True)

    def command(self, command: Command, at: datetime) -> None:
        """Show that a command changed its state."""
        shown = {
            "agentId": command.agent_id,
            "commandId": command.command_id,
            "action": command.action,
            "status": command.status,
            "result": command.result,
            "at": at,
        }
        self._downlink.emit(live(command.agent_id, Topic.COMMANDS), codec.encode(shown))

    def clear(self, agent_id: str) -> None:
        """Take back what is retained of an agent that is no more."""
        self._snapshots.pop(agent_id, None)
        self._overtaken.pop(agent_id, None)
        for topic in (Topic.METRICS, Topic.PRESENCE):
            self._downlink.emit(live(agent_id, topic), b"", retain=True)

    def _show_sample(self, sample: Sample) -> None:
        agent_id = sample.agent_id
        newest = self._snapshots.get(agent_id)
        # A late sample never takes the newest one's place.
        is_newest = newest is None or sample.timestamp >= newest.shows
        now = self._clock.now()
        is_due = newest is None or now >= newest.due
        retain = is_newest and is_due
        if retain:
            self._snapshots[agent_id] = _Snapshot(now + SNAPSHOT_EVERY, sample.timestamp)
            self._overtaken.pop(agent_id, None)
        elif is_newest and newest is not None:
            self._snapshots[agent_id] = _Snapshot(newest.due, sample.timestamp)
            self._overtaken[agent_id] = sample
        self._downlink.emit(live(agent_id, Topic.METRICS), _sample_json(sample), retain=retain)

    def keep_snapshots(self) -> None:
        """Retain the newest sample of each agent whose snapshot shows an older one."""
        overtaken, self._overtaken = self._overtaken, {}
        for agent_id, sample in overtaken.items():
            self._downlink.keep(live(agent_id, Topic.METRICS), _sample_json(sample))

    async def run(self) -> None:
        """Keep snapshots once a second, until cancelled."""
        while True:
            self.keep_snapshots()
            await asyncio.sleep(SNAPSHOT_EVERY.total_seconds())

    def _show_scan(self, scan: Scan) -> None:
        shown: dict[str, Any] = {"agentId": scan.agent_id, **codec.scan_json(scan)}
        self._downlink.emit(live(scan.agent_id, Topic.DISCOVERY), codec.encode(shown))


def _sample_json(sample: Sample) -> bytes:
    return codec.encode({"agentId": sample.agent_id, **codec.sample_json(sample)})
