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
from pingup.settings import LiveSamples
from pingup.topics import Live as Topic
from pingup.topics import live

_OFF = LiveSamples.OFF
SNAPSHOT_EVERY = timedelta(seconds=1)
# A snapshot costs a message even where nobody watches. Of a very large fleet they take turns.
MAX_SNAPSHOTS = 2_000  # in a second


class _Shown(msgspec.Struct, gc=False):
    """When an agent's next snapshot is due by the server's clock, and the newest moment seen by its own."""

    due: datetime
    newest: datetime


class Live:
    """Publishes on the live topics; retains presence, and metrics at most once a second and agent."""

    def __init__(self, clock: Clock, downlink: Downlink, samples: LiveSamples = LiveSamples.WATCHED) -> None:
        self._clock = clock
        self._downlink = downlink
        self._samples = samples
        self._shown: dict[str, _Shown] = {}
        # By agent, the newest sample that no snapshot shows yet; who waits longest comes first.
        self._unkept: dict[str, Sample] = {}
        self._snapshots_left = MAX_SNAPSHOTS

    def stored(self, records: Iterable[Record]) -> None:
        """Show new records."""
        now = self._clock.now()
        watched: dict[str, bool] = {}
        for record in records:
            if isinstance(record, Sample):
                if self._samples is _OFF:
                    continue
                agent_id = record.agent_id
                is_watched = watched.get(agent_id)
                if is_watched is None:
                    is_watched = watched[agent_id] = self._is_watched(agent_id)
                self._show_sample(record, now, is_watched)
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
        self._shown.pop(agent_id, None)
        self._unkept.pop(agent_id, None)
        for topic in (Topic.METRICS, Topic.PRESENCE):
            self._downlink.emit(live(agent_id, topic), b"", retain=True)

    async def run(self) -> None:
        """Keep snapshots once a second, until cancelled."""
        while True:
            self.keep_snapshots()
            await asyncio.sleep(SNAPSHOT_EVERY.total_seconds())

    def keep_snapshots(self) -> None:
        """Retain the newest sample of the agents whose snapshot shows an older one, a bounded number."""
        due = self._clock.now() + SNAPSHOT_EVERY
        self._snapshots_left = MAX_SNAPSHOTS
        for agent_id in list(self._unkept)[:MAX_SNAPSHOTS]:
            sample = self._unkept.pop(agent_id)
            self._shown[agent_id].due = due
            self._snapshots_left -= 1
            topic, text = live(agent_id, Topic.METRICS), codec.sample_text(sample)
            if self._samples is LiveSamples.SAMPLED:
                self._downlink.emit(topic, text, retain=True)
            else:
                self._downlink.keep(topic, text)

    def _is_watched(self, agent_id: str) -> bool:
        if self._samples is not LiveSamples.WATCHED:
            return self._samples is LiveSamples.ALWAYS
        return self._downlink.is_watched(live(agent_id, Topic.METRICS))

    def _show_sample(self, sample: Sample, now: datetime, is_watched: bool) -> None:
        agent_id = sample.agent_id
        shown = self._shown.get(agent_id)
        if shown is None:
            shown = self._shown[agent_id] = _Shown(now, sample.timestamp)
        # A late sample never takes the newest one's place.
        is_newest = sample.timestamp >= shown.newest
        if is_newest:
            shown.newest = sample.timestamp
        if is_newest and now >= shown.due and self._snapshots_left > 0:
            shown.due = now + SNAPSHOT_EVERY
            self._snapshots_left -= 1
            self._unkept.pop(agent_id, None)
            self._downlink.emit(live(agent_id, Topic.METRICS), codec.sample_text(sample), retain=True)
            return
        if is_newest:
            self._unkept[agent_id] = sample
        if is_watched:
            self._downlink.emit(live(agent_id, Topic.METRICS), codec.sample_text(sample))

    def _show_scan(self, scan: Scan) -> None:
        shown: dict[str, Any] = {"agentId": scan.agent_id, **codec.scan_json(scan)}
        self._downlink.emit(live(scan.agent_id, Topic.DISCOVERY), codec.encode(shown))
