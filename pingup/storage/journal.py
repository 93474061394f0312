"""What is promised already and not yet in its table: small deposits, appended to a file and synced.

To DuckDB a transaction is worth two milliseconds of work, whatever is in it. So what comes by and by is first
put here, and brought into DuckDB hundreds at a time. After a crash it is brought in then, as if it came for
the second time: what is there already is not stored again.

The file is a line that names its format, and entries: the size of the content and its CRC-32, four bytes
each, little-endian, then the content: the samples and the runs in MessagePack.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

from pingup.errors import Unavailable, Unstorable, Unusable
from pingup.model import Run, Sample

log = logging.getLogger(__name__)

_FORMAT = b"pingup journal 1\n"
_ANY_FORMAT = re.compile(rb"pingup journal [0-9]+\n")
_HEAD = struct.Struct("<II")
_INT32 = range(-(2**31), 2**31)
_INT64_MAX = 2**63 - 1
_encoder = msgspec.msgpack.Encoder()
Entry = tuple[list[Sample], list[Run]]
_decoder = msgspec.msgpack.Decoder(Entry)
# What a value that is not what its type says raises on its way there and back.
_UNSTORABLE = (TypeError, ValueError, OverflowError, msgspec.MsgspecError)


class Written(NamedTuple):
    """A deposit as it can be read from the file, and the size of its entry in bytes."""

    samples: list[Sample]
    runs: list[Run]
    size: int


class Journal:
    """Deposits of samples, in the order in which they were added. All methods belong on one thread.

    Between a clean stop and the first deposit after it there is no file. `quarantined` is the copy of a
    journal of which not everything could be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._is_clear = True
        self._is_sound = True
        self.quarantined: Path | None = None

    def recover(self) -> list[Entry]:
        """What a crash has left in it: every entry that is whole.

        Raises:
            Unusable: it can't be read, or is of another version.
        """
        try:
            content = self._path.read_bytes() if self._path.exists() else b""
            if not content.startswith(_FORMAT) and _ANY_FORMAT.match(content):
                raise Unusable(f"{self._path} was made by another version of pingup")
            entries = list(_entries(content))
            if None in entries or content[: len(_FORMAT)] != _FORMAT[: len(content)]:
                self.quarantined = self._copy()
        except OSError as problem:
            raise Unusable(f"cannot read {self._path}: {problem.strerror}") from problem
        self._is_clear = not content
        # Nothing is to stand behind what is not whole.
        self._is_sound = not content
        return [entry for entry in entries if entry is not None]

    def add(self, samples: Sequence[Sample], runs: Sequence[Run]) -> Written:
        """Put a deposit on the disk.

        Raises:
            Unstorable: a value is not what a column can hold.
            Unavailable: the file can't be written now. Then it takes nothing until it is cleared.
        """
        content, written = _content(samples, runs)
        if not self._is_sound:
            raise Unavailable("the journal has failed and was not cleared since")
        entry = _HEAD.pack(len(content), crc32(content)) + content
        self._is_clear = self._is_sound = False
        try:
            self._append(entry)
        except OSError as problem:
            raise Unavailable(f"the journal cannot be written now: {problem.strerror}") from problem
        self._is_sound = True
        return Written(*written, len(entry))

    def clear(self) -> None:
        """Forget everything: it is in the tables.

        Raises:
            Unavailable: the file can't be written now.
        """
        if self._is_clear:
            return
        self._is_sound = False
        try:
            file = self._open()
            os.ftruncate(file, 0)
            os.fdatasync(file)
        except OSError as problem:
            raise Unavailable(f"the journal cannot be cleared now: {problem.strerror}") from problem
        self._is_clear = self._is_sound = True

    def close(self) -> None:
        """Close the file, and remove it if nothing is in it."""
        file, self._file = self._file, None
        try:
            if file is not None:
                os.close(file)
            if self._is_clear:
                self._path.unlink(missing_ok=True)
        except OSError as problem:
            # What is on the disk has been synced before.
            log.warning("the journal was not closed cleanly: %s", problem.strerror)

    def _append(self, entry: bytes) -> None:
        file = self._open()
        size = os.fstat(file).st_size
        if size == 0:
            entry = _FORMAT + entry
        try:
            while entry:
                entry = entry[os.write(file, entry) :]
            os.fdatasync(file)
        except OSError:
            # Half an entry would look like damage. This takes no space.
            with suppress(OSError):
                os.ftruncate(file, size)
            raise

    def _open(self) -> int:
        if self._file is None:
            with ExitStack() as undo:
                file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                undo.callback(os.close, file)
                _sync_directory(self._path.parent)
                undo.pop_all()
            self._file = file
        return self._file

    def _copy(self) -> Path:
        """A copy under a free name that tells when the journal was last written."""
        written = datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
        name = f"{self._path.name}.damaged-{written:%Y%m%dT%H%M%SZ}"
        aside, number = self._path.with_name(name), 1
        while aside.exists():
            number += 1
            aside = self._path.with_name(f"{name}-{number}")
        with ExitStack() as undo:
            undo.callback(aside.unlink, missing_ok=True)
            shutil.copy(self._path, aside)
            undo.pop_all()
        return aside


def _content(samples: Sequence[Sample], runs: Sequence[Run]) -> tuple[bytes, Entry]:
    """What is promised is read once before, as it would be after a crash."""
    try:
        content = _encoder.encode((samples, runs))
        found, numbered = entry = _decoder.decode(content)
        for sample in found:
            if sample.latency is not None and sample.latency not in _INT32:
                raise ValueError(f"latency {sample.latency} is beyond 32 bits")
        for run in numbered:
            if max(run.low, run.high, run.first) > _INT64_MAX:
                raise ValueError(f"a number of stream {run.stream} is beyond 64 bits")
            if None in (run.low_at.tzinfo, run.high_at.tzinfo, run.received_at.tzinfo):
                raise ValueError(f"a moment of stream {run.stream} is in no time zone")
    except _UNSTORABLE as problem:
        raise Unstorable(f"a record cannot be stored: {problem}") from problem
    return content, entry


def _entries(content: bytes) -> Iterator[Entry | None]:
    """Each entry in its order, None for one that is not whole."""
    start = len(_FORMAT)
    while start < len(content):
        if start + _HEAD.size > len(content):
            yield None
            return
        size, checksum = _HEAD.unpack_from(content, start)
        start += _HEAD.size
        packed = content[start : start + size]
        start += size
        yield _entry(packed) if len(packed) == size and crc32(packed) == checksum else None


def _entry(packed: bytes) -> Entry | None:
    try:
        entry: Entry = _decoder.decode(packed)
        return entry
    except msgspec.MsgspecError:
        return None


def _sync_directory(directory: Path) -> None:
    """See to it that a new file's name is on the disk too."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
