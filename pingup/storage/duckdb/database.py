"""The one open file, shared by the writing and the reading threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pingup.errors import Unavailable, Unusable
from pingup.storage.duckdb.driver import duckdb
from pingup.storage.duckdb.faults import BUGS, first_line, is_breaking
from pingup.storage.duckdb.migrations import open_migrated
from pingup.storage.duckdb.opening import use_file


class Database:
    """The open file. All methods may be called from any thread.

    `quarantined` is where a damaged write-ahead log was put when the file was opened. `is_broken` tells that
    DuckDB has invalidated the database (after a failed fsync, for one) and only `reopen` can help.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, making it or migrating it where needed. Raises Unusable."""
        self._path = path
        self._changed = threading.Condition()
        self._lent = 0
        self._idle: list[duckdb.DuckDBPyConnection] = []
        self._root: duckdb.DuckDBPyConnection | None = None
        self.is_broken = False
        self.quarantined: Path | None = None
        self._open()

    def _open(self) -> None:
        self._root, quarantined = open_migrated(self._path).opened
        self.quarantined = quarantined or self.quarantined
        self.is_broken = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around all work with the file: what is not a bug of ours becomes `Unavailable`."""
        try:
            yield
        except BUGS:
            raise
        except duckdb.Error as fault:
            self.is_broken = self.is_broken or is_breaking(fault)
            raise Unavailable(f"DuckDB cannot work now: {first_line(fault)}") from fault

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for one thread; what it leaves uncommitted is rolled back.

        Raises:
            Unavailable: the file is not open now.
        """
        cursor = self._lend(is_fresh=True)
        try:
            yield cursor
        finally:
            self._take_back(cursor, is_clean=False)

    @contextmanager
    def reader(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for one thread and some questions, kept for the next who asks.

        It must be left without a transaction and without rows that were not fetched; an exception may leave
        anything. Raises as `cursor`.
        """
        cursor = self._lend(is_fresh=False)
        is_clean = False
        try:
            yield cursor
            is_clean = True
        finally:
            self._take_back(cursor, is_clean=is_clean)

    def _lend(self, *, is_fresh: bool) -> duckdb.DuckDBPyConnection:
        with self._changed:
            if self._root is None:
                raise Unavailable("the telemetry database is not open")
            kept = self._idle.pop() if self._idle and not is_fresh else None
            cursor = kept or use_file(self._root.cursor())
            self._lent += 1
        return cursor

    def _take_back(self, cursor: duckdb.DuckDBPyConnection, *, is_clean: bool) -> None:
        try:
            if not is_clean:
                cursor.close()
        finally:
            with self._changed:
                if is_clean:
                    self._idle.append(cursor)
                self._lent -= 1
                self._changed.notify_all()

    def reopen(self) -> None:
        """Close the file and open it again, if it is broken, once all cursors are given back.

        Raises:
            Unavailable: it can't be opened now; the next call tries again.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._lent == 0)
            if not self.is_broken:
                return
            self._close_root()
            try:
                self._open()
            except Unusable as problem:
                raise Unavailable(str(problem)) from problem

    def close(self) -> None:
        """Write the log into the file and close it, once all cursors are given back."""
        with self._changed:
            self._changed.wait_for(lambda: self._lent == 0)
            self._close_root()

    def _close_root(self) -> None:
        # DuckDB shares one instance between all connections of a process, a broken one too: none may stay.
        while self._idle:
            self._idle.pop().close()
        root, self._root = self._root, None
        if root is not None:
            root.close()
