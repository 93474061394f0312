"""What of a batch is new, and its way into the table: repeats are found without any index.

Telemetry comes in the order of time. So a record newer than all that is stored of its agent is new for
sure, and only the others, the suspects, are compared: with the batch so far, and with the table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from itertools import compress
from typing import Generic, NamedTuple

from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.faults import refusing_values
from pingup.storage.duckdb.tables import K, R, Table, aware

_NOTHING_STORED = datetime.min.replace(tzinfo=UTC)


class Bounds:
    """A moment for each agent that nothing stored of it is newer than.

    Agents that have sent nothing since the start share a floor, the newest moment in the table then. A bound
    may be too high, which costs a comparison, and is never too low.
    """

    def __init__(self, floor: datetime) -> None:
        self._floor = floor
        self._newest: dict[str, datetime] = {}

    def of(self, agent_id: str) -> datetime:
        return self._newest.get(agent_id, self._floor)

    def advance(self, newest: Mapping[str, datetime]) -> None:
        """Take over what a committed batch has brought, all of it newer than the bounds were."""
        self._newest.update(newest)

    def forget(self, agent_id: str) -> None:
        """Fall back to the floor for an agent of which nothing is stored any more."""
        self._newest.pop(agent_id, None)


class Sifted(NamedTuple, Generic[K]):
    """Keys after the comparison with the bounds, with what was kept before them, and with each other.

    `repeats` and `suspects` are positions in `keys`, `newest` is the newest moment of each agent that has
    gone beyond what was known.
    """

    keys: Sequence[K]
    repeats: set[int]
    suspects: list[int]
    newest: dict[str, datetime]

    def is_new(self, repeats: Collection[int]) -> list[bool]:
        """For each key whether it is none of these."""
        return [position not in repeats for position in range(len(self.keys))]


class Sieve(Generic[K]):
    """Tells repeats of what is on its way into the table, and those that only the table can tell about."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        # Hashing costs more than all the rest, so keys are hashed only once it takes that.
        self._unhashed: list[K] = []
        self._hashed: set[K] = set()
        self._newest: dict[str, datetime] = {}

    def sift(self, keys: Sequence[K]) -> Sifted[K]:
        """Compare, and keep nothing."""
        sifted: Sifted[K] = Sifted(keys, set(), [], {})
        earlier: set[K] = set()
        hashed = 0
        newest = sifted.newest
        for position, key in enumerate(keys):
            agent_id, timestamp = key.agent_id, key.timestamp
            known = newest.get(agent_id)
            if known is None:
                known = self._newest.get(agent_id) or self._bounds.of(agent_id)
            if timestamp > known:
                newest[agent_id] = timestamp
                continue
            earlier.update(keys[hashed:position])
            hashed = position
            if key in earlier or self._keeps(key):
                sifted.repeats.add(position)
            elif timestamp <= self._bounds.of(agent_id):
                sifted.suspects.append(position)
        return sifted

    def keep(self, sifted: Sifted[K]) -> None:
        """Those keys are on their way into the table too."""
        self._unhashed.extend(sifted.keys)
        self._newest.update(sifted.newest)

    def settle(self) -> None:
        """All that was kept is in the table."""
        self._bounds.advance(self._newest)
        self._unhashed, self._hashed, self._newest = [], set(), {}

    def _keeps(self, key: K) -> bool:
        self._hashed.update(self._unhashed)
        self._unhashed.clear()
        return key in self._hashed


class Intake(Generic[R, K]):
    """Takes records of one table into an open transaction.

    After any failure it must be thrown away together with its cursor: the appender would bring the rows that
    it had taken before the failure into the next transaction.
    """

    def __init__(self, table: Table[R, K], cursor: duckdb.DuckDBPyConnection) -> None:
        self._table = table
        self._cursor = cursor
        self._appender = cursor.appender(table.name)
        newest = cursor.execute(table.newest).fetchone()
        self._bounds = Bounds(aware(newest[0]) if newest and newest[0] else _NOTHING_STORED)
        self._sieve: Sieve[K] = Sieve(self._bounds)

    def judge(self, records: Sequence[R]) -> Sifted[K] | None:
        """What of the records is new; None where only the table can tell."""
        with refusing_values():
            sifted = self._sieve.sift(self._table.keys(records))
        return None if sifted.suspects else sifted

    def keep(self, sifted: Sifted[K]) -> None:
        """What was judged is promised; what is new of it is appended before anything else is taken."""
        self._sieve.keep(sifted)

    def append(self, records: Sequence[R]) -> None:
        """Append records that were judged to be new."""
        with refusing_values():
            self._append(records, self._table.keys(records))

    def take(self, records: Sequence[R]) -> list[bool]:
        """Append what is new; for each record whether it was.

        Raises:
            Unstorable: the table can't hold one of them.
        """
        with refusing_values():
            keys = self._table.keys(records)
            sifted = self._sieve.sift(keys)
            repeats = sifted.repeats | self._stored(keys, sifted.suspects)
            is_new = sifted.is_new(repeats)
            if repeats:
                records, keys = list(compress(records, is_new)), list(compress(keys, is_new))
            self._append(records, keys)
        self._sieve.keep(sifted)
        return is_new

    def _append(self, records: Sequence[R], keys: Sequence[K]) -> None:
        if records:
            self._appender.append_rows(self._table.rows(records, keys))
            self._appender.flush()

    def _stored(self, keys: Sequence[K], suspects: Sequence[int]) -> set[int]:
        if not suspects:
            return set()
        found = self._table.stored(self._cursor, [keys[position] for position in suspects])
        return {suspects[index] for index in found}

    def settle(self) -> None:
        """Remember what was taken, now that it is committed."""
        self._sieve.settle()

    def forget(self, agent_id: str) -> None:
        """Remember nothing of an agent whose rows are gone."""
        self._bounds.forget(agent_id)

    def discard(self) -> None:
        """Drop the rows that a failure has left in the appender."""
        self._appender.clear()
