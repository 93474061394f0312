"""The independent count: what devices were told, against what is in the file."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from tests.faults.message import Message, Row

_TABLES = {
    "metrics": "agent_id, timestamp, cpu, ram, disk, latency, status, extra",
    "discovery": "agent_id, scan_timestamp, host_ip, latency, ports, scan_duration",
}


@dataclass
class Record:
    """What devices have sent, and what of it was acknowledged to them."""

    genuine: set[Row] = field(default_factory=set)
    acknowledged: set[Row] = field(default_factory=set)
    messages: int = 0
    """Acknowledged messages that must be stored."""
    proven: int = 0
    """Those of them that the server has acknowledged itself, not a broker before it."""
    refused: int = 0
    """Acknowledged messages that must not be."""
    heard: Callable[[Message], None] | None = None
    """Told of each acknowledged message that must be stored."""
    departing: Callable[[Message], None] | None = None
    """Told of each message before it is sent."""
    _grown: asyncio.Event = field(default_factory=asyncio.Event)

    def sent(self, message: Message) -> None:
        """A message is about to be sent, perhaps not for the first time."""
        self.genuine.update(message.rows)
        if self.departing is not None:
            self.departing(message)

    def acknowledge(self, message: Message, *, proven: bool) -> None:
        """A device was told that it need not keep this message any more; `proven`: by the server itself."""
        self.acknowledged.update(message.rows)
        if message.rows:
            self.messages += 1
            if self.heard is not None:
                self.heard(message)
        else:
            self.refused += 1
        self.proven += proven and bool(message.rows)
        self._grown.set()
        self._grown = asyncio.Event()

    async def grow(self, by: int = 1) -> None:
        """Wait until so many more genuine messages are acknowledged than now."""
        wanted = self.messages + by
        while self.messages < wanted:
            await self._grown.wait()

    async def prove(self) -> None:
        """Wait until the server itself acknowledges one more."""
        wanted = self.proven + 1
        while self.proven < wanted:
            await self._grown.wait()


@dataclass(frozen=True)
class Count:
    """What the comparison has found, in rows."""

    lost: frozenset[Row]
    doubled: frozenset[Row]
    forged: frozenset[Row]


def count(record: Record, stored: Counter[Row], others: Collection[str] = ()) -> Count:
    """Compare. `others` are agents whose messages were not recorded; theirs may only not be doubled."""
    return Count(
        lost=frozenset(record.acknowledged - stored.keys()),
        doubled=frozenset(row for row, times in stored.items() if times > 1),
        forged=frozenset(row for row in stored if row not in record.genuine and row[1] not in others),
    )


def read_rows(file: Path) -> Counter[Row]:
    """How often each row is in the file of a server that has stopped."""
    found: Counter[Row] = Counter()
    with duckdb.connect(str(file), read_only=True) as connection:
        for table, columns in _TABLES.items():
            statement = f"SELECT {columns}, count(*) FROM {table} GROUP BY ALL"
            for *values, times in connection.execute(statement).fetchall():
                found[_row(table, values)] += times
    return found


def _row(table: str, values: list[object]) -> Row:
    """JSON in the spelling of `message`."""
    column = -1 if table == "metrics" else -2
    if isinstance(text := values[column], str):
        values[column] = json.dumps(json.loads(text))
    return (table, *values)
