"""What the spool's thread does: open the file when that is possible, use it, begin anew after damage."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import msgspec

from pingup.agent.ranges import Range
from pingup.agent.spool_file import Bounds, Extent, Proof, SpoolFile, Stored, is_damage, set_aside

_log = logging.getLogger(__name__)


class Unwritten(msgspec.Struct, frozen=True, eq=False):
    """A message in memory; `ticket` counts what was ever put in."""

    ticket: int
    message: Stored


class Work(msgspec.Struct, frozen=True):
    """What is to be done to the file; all but `waiting` concerns only the stream that is named.

    `renumber` begins a new stream with what is held then.
    """

    waiting: tuple[Unwritten, ...] = ()
    stream: str | None = None
    freed: tuple[Range, ...] = ()
    proof: Proof | None = None
    renumber: bool = False


class Disk:
    """Used by one thread alone, but for `written`. `do` and `read` may raise sqlite3.Error and OSError."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._path = path
        self._bounds = bounds
        self._file: SpoolFile | None = None
        self.written = 0
        """The ticket of the last message that was written, ever: none is written twice."""

    def do(self, work: Work) -> tuple[Extent, int]:
        """Do all of the work; what the spool holds then, and how many messages were dropped."""
        file = self._opened()
        try:
            return self._do(file, work)
        except sqlite3.Error as problem:
            self._judge(problem)
            raise

    def _do(self, file: SpoolFile, work: Work) -> tuple[Extent, int]:
        if work.stream == file.extent.stream:
            if work.freed:
                file.free(work.freed)
            if work.proof is not None:
                file.remember(work.proof)
            if work.renumber:
                file.renumber()
        dropped = 0
        waiting = [unwritten for unwritten in work.waiting if unwritten.ticket > self.written]
        if waiting:
            dropped = file.append([unwritten.message for unwritten in waiting], self._bounds)
            self.written = waiting[-1].ticket
        return file.extent, dropped

    def read(self, stream: str, seq: int) -> Stored | None:
        """A message of a stream, if it is still held."""
        file = self._opened()
        if file.extent.stream != stream:
            return None
        try:
            return file.read(seq)
        except sqlite3.Error as problem:
            self._judge(problem)
            raise

    def close(self, work: Work) -> None:
        """Do what is still to be done, if the disk takes it, and close the file."""
        try:
            self.do(work)
        except (sqlite3.Error, OSError) as problem:
            if work.waiting:
                _log.error("%d messages could not be written and are lost: %s", len(work.waiting), problem)
        if self._file is not None:
            self._file.close()

    def _opened(self) -> SpoolFile:
        if self._file is None:
            try:
                self._file = SpoolFile.open(self._path)
            except sqlite3.Error as problem:
                if not is_damage(problem):
                    raise
                self._begin_anew(problem)
                self._file = SpoolFile.open(self._path)
        return self._file

    def _judge(self, problem: sqlite3.Error) -> None:
        """Part with a file that is damaged; the next call begins a new one."""
        if self._file is not None and is_damage(problem):
            self._file.close()
            self._file = None
            self._begin_anew(problem)

    def _begin_anew(self, problem: sqlite3.Error) -> None:
        aside = set_aside(self._path)
        _log.error("the spool is damaged (%s): it is kept as %s, and a new one begins", problem, aside)
