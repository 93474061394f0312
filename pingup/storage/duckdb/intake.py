"""What of a batch is new, and its way into the table: repeats are found without any index.

Telemetry comes in the order of time. So a record newer than all that is stored of its agent is new for
sure, and only the others, the suspects, are compared: with the batch so far, and with the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class Sifted(NamedTuple):
    """A batch after the comparison with the bounds and with itself; positions in the batch.

    `newest` is the newest moment of each agent that has gone beyond its bound.
    """

    repeats: set[int]
    suspects: list[int]
    newest: dict[str, datetime]


def sift(keys: Sequence[K], bounds: Bounds) -> Sifted:
    """Tell the repeats within a batch and those that only the table can tell about."""
    sifted = Sifted(set(), [], {})
    # Hashing costs more than all the rest, so keys are hashed only once a suspect turns up.
    earlier: set[K] = set()
    hashed = 0
    newest = sifted.newest
    for position, key in enumerate(keys):
        agent_id, timestamp = key.agent_id, key.timestamp
        known = newest.get(agent_id)
        if timestamp > (bounds.of(agent_id) if known is None else known):
            newest[agent_id] = timestamp
            continue
        bound = bounds.of(agent_id)
        earlier.update(keys[hashed:position])
        hashed = position
        if key in earlier:
            sifted.repeats.add(position)
        elif key.timestamp <= bound:
            sifted.suspects.append(position)
    return sifted


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
        self._uncommitted: dict[str, datetime] = {}

    def take(self, records: Sequence[R]) -> list[bool]:
        """Append what is new; for each record whether it was.

        Raises:
            Unstorable: the table can't hold one of them.
        """
        with refusing_values():
            keys = self._table.keys(records)
            sifted = sift(keys, self._bounds)
            repeats = sifted.repeats | self._stored(keys, sifted.suspects)
            is_new = [position not in repeats for position in range(len(keys))]
            if repeats:
                records, keys = list(compress(records, is_new)), list(compress(keys, is_new))
            if records:
                self._appender.append_rows(self._table.rows(records, keys))
                self._appender.flush()
        self._uncommitted = sifted.newest
        return is_new

    def _stored(self, keys: Sequence[K], suspects: Sequence[int]) -> set[int]:
        if not suspects:
            return set()
        found = self._table.stored(self._cursor, [keys[position] for position in suspects])
        return {suspects[index] for index in found}

    def settle(self) -> None:
        """Remember what was taken, now that it is committed."""
        self._bounds.advance(self._uncommitted)
        self._uncommitted = {}

    def forget(self, agent_id: str) -> None:
        """Remember nothing of an agent whose rows are gone."""
        self._bounds.forget(agent_id)

    def discard(self) -> None:
        """Drop the rows that a failure has left in the appender."""
        self._appender.clear()
