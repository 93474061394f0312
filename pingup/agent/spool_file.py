"""The file of the spool: SQLite. It gives the numbers, and in one stream never the same one twice."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from itertools import count
from pathlib import Path

import msgspec

from pingup.agent.ranges import Range
from pingup.topics import Kind

# What a message is known to cost beside its body; without it, many small ones would get past the bound.
ROW_BYTES = 32
_SPARE_PAGES = 256
_MAX_WAL_BYTES = 4 * 1024 * 1024
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stream (
  id    TEXT NOT NULL,
  proof TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS messages (
  seq  INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  body BLOB NOT NULL
);
"""


class Proof(StrEnum):
    """What shows that the server has a message, so that it may leave the spool."""

    UNKNOWN = "unknown"
    PUBACK = "puback"
    RECEIPT = "receipt"


class Stored(msgspec.Struct, frozen=True):
    """A message as the spool keeps it: one JSON object, unsigned and without its number."""

    kind: Kind
    body: bytes


class Extent(msgspec.Struct, frozen=True):
    """What a spool holds: numbers from `first` to `last`, the last one ever given (first > last: none)."""

    stream: str
    first: int
    last: int
    proof: Proof


class Bounds(msgspec.Struct, frozen=True):
    """How much a spool may hold."""

    messages: int
    bytes: int


class Damaged(sqlite3.DatabaseError):
    """What was read is nothing that a spool writes."""


class SpoolFile:
    """One stream of messages. To be used by one thread; every method may raise `sqlite3.Error`."""

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database = database
        self._path = path
        self._stream, self._proof = self._find_stream()
        self._count, self._bytes = self._measure(0, 2**63 - 1)
        given = self._find("SELECT max(seq) FROM sqlite_sequence WHERE name = 'messages'") or 0
        self._last = max(given, self._find("SELECT max(seq) FROM messages") or 0)
        self._first = self._find_first(self._last)

    @classmethod
    def open(cls, path: Path) -> SpoolFile:
        """Open the file, a new one with a new stream if there is none.

        Raises:
            sqlite3.Error: it can't be used; `is_damage` tells whether that will stay so.
            OSError: its directory can't be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        # Autocommit: every transaction begins and ends with a statement of ours.
        database = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        # Whatever stands there, reading it doesn't fail; it is judged afterwards.
        database.text_factory = bytes
        try:
            # A second agent on the same directory gets an error instead of a share in the spool.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA journal_size_limit = {_MAX_WAL_BYTES}")
            database.executescript(_SCHEMA)
            return cls(database, path)
        except sqlite3.Error as problem:
            database.close()
            if getattr(problem, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:
                raise Damaged(f"its tables are not a spool's: {problem}") from problem
            raise

    @property
    def extent(self) -> Extent:
        return Extent(self._stream, self._first, self._last, self._proof)

    def append(self, messages: Sequence[Stored], bounds: Bounds) -> int:
        """Number messages and put them on the disk; how many of the oldest had to go for them."""
        self._synchronise("FULL")
        added = sum(len(message.body) + ROW_BYTES for message in messages)
        with self._transaction():
            self._database.executemany(
                "INSERT INTO messages (kind, body) VALUES (?, ?)",
                ((message.kind.value, message.body) for message in messages),
            )
            last = self._find("SELECT max(seq) FROM messages") or 0
            total, size, through = self._overflow(self._count + len(messages), self._bytes + added, bounds)
            if through:
                self._database.execute("DELETE FROM messages WHERE seq <= ?", (through,))
            first = self._find_first(last)
        dropped = self._count + len(messages) - total
        self._count, self._bytes, self._first, self._last = total, size, first, last
        return dropped

    def _overflow(self, total: int, size: int, bounds: Bounds) -> tuple[int, int, int]:
        """How many messages and bytes may stay, and the number through which the oldest must go."""
        through = 0
        oldest = self._database.execute("SELECT seq, coalesce(length(body), 0) FROM messages ORDER BY seq")
        with closing(oldest):
            for seq, length in oldest:
                if total <= bounds.messages and size <= bounds.bytes:
                    break
                through = seq
                total -= 1
                size -= length + ROW_BYTES
        return total, size, through

    def read(self, seq: int) -> Stored | None:
        """The message with this number, if it is still held."""
        row = self._database.execute("SELECT kind, body FROM messages WHERE seq = ?", (seq,)).fetchone()
        if row is None:
            return None
        try:
            return msgspec.convert({"kind": row[0].decode(), "body": row[1]}, Stored)
        except (AttributeError, ValueError) as problem:
            raise Damaged(f"message {seq} is unreadable") from problem

    def free(self, ranges: Iterable[Range]) -> None:
        """Let messages go. A power cut may undo it: then they are sent again, which does no harm."""
        self._synchronise("NORMAL")
        total, size = self._count, self._bytes
        with self._transaction():
            for first, last in ranges:
                freed, freed_bytes = self._measure(first, last)
                self._database.execute("DELETE FROM messages WHERE seq BETWEEN ? AND ?", (first, last))
                total -= freed
                size -= freed_bytes
            lowest = self._find_first(self._last)
        self._count, self._bytes, self._first = total, size, lowest
        if not total:
            self._shrink()

    def _shrink(self) -> None:
        """Give the space of a long outage back to the device."""
        (spare,) = self._database.execute("PRAGMA freelist_count").fetchone()
        if spare > _SPARE_PAGES:
            # As a script, since `execute` stops after the first page.
            self._database.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")

    def renumber(self) -> None:
        """Begin a new stream with what is held, counted from 1."""
        self._synchronise("FULL")
        stream, shift = secrets.token_hex(8), self._first - 1
        with self._transaction():
            self._database.execute("UPDATE stream SET id = ?", (stream,))
            self._database.execute("UPDATE messages SET seq = seq - ?", (shift,))
            self._database.execute(
                "UPDATE sqlite_sequence SET seq = seq - ? WHERE name = 'messages'", (shift,)
            )
        self._stream, self._first, self._last = stream, 1, self._last - shift

    def remember(self, proof: Proof) -> None:
        """Keep what lets messages of this stream go."""
        self._synchronise("FULL")
        self._database.execute("UPDATE stream SET proof = ?", (proof.value,))
        self._proof = proof

    def close(self) -> None:
        self._database.close()

    # --- what is in it -------------------------------------------------------------------------------

    def _find_stream(self) -> tuple[str, Proof]:
        row = self._database.execute("SELECT id, proof FROM stream").fetchone()
        if row is not None:
            try:
                return row[0].decode(), Proof(row[1].decode())
            except (AttributeError, ValueError) as problem:
                raise Damaged("the stream is unreadable") from problem
        stream = secrets.token_hex(8)
        self._database.execute("INSERT INTO stream (id, proof) VALUES (?, ?)", (stream, Proof.UNKNOWN.value))
        return stream, Proof.UNKNOWN

    def _find_first(self, last: int) -> int:
        lowest = self._find("SELECT min(seq) FROM messages")
        return last + 1 if lowest is None else lowest

    def _find(self, query: str) -> int | None:
        (number,) = self._database.execute(query).fetchone()
        return None if number is None else int(number)

    def _measure(self, first: int, last: int) -> tuple[int, int]:
        """How many messages there are in a range of numbers, and their bytes."""
        total, size = self._database.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM messages WHERE seq BETWEEN ? AND ?",
            (first, last),
        ).fetchone()
        return total, size + total * ROW_BYTES

    # --- transactions --------------------------------------------------------------------------------

    def _synchronise(self, how: str) -> None:
        self._database.execute(f"PRAGMA synchronous = {how}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        finally:
            if self._database.in_transaction:
                self._database.rollback()


def is_damage(problem: sqlite3.Error) -> bool:
    """Whether the file will never work again, unlike a full or slow disk."""
    # Errors of the module itself have no code. The low byte is the primary one (sqlite.org/rescode.html).
    code = getattr(problem, "sqlite_errorcode", 0)
    return isinstance(problem, Damaged) or code & 0xFF in _DAMAGE


def set_aside(path: Path) -> Path:
    """Give a file that nobody has open, and what SQLite keeps beside it, a name of its own; the new name.

    Raises:
        OSError: it can't be renamed.
    """
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    # The log first: without the file it is nothing, while a new file beside the old log would be in danger.
    for suffix in ("-wal", "-shm", ""):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            os.replace(beside, aside.with_name(aside.name + suffix))
    return aside
