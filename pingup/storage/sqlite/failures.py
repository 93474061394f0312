"""SQLite's error codes in the project's own words (https://www.sqlite.org/rescode.html)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from pingup.errors import Unavailable, Unusable

# The low byte of an extended code is its primary code.
_PRIMARY = 0xFF
_CANNOT_WORK = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


def cannot_work(problem: BaseException) -> bool:
    """Whether it is the machine that failed (disk, memory, locks), not the statement or its values."""
    return isinstance(problem, sqlite3.Error) and _primary_code(problem) in _CANNOT_WORK


def unavailable(problem: BaseException) -> Unavailable:
    """What callers get when the machine failed."""
    failure = Unavailable(f"the registry cannot work now: {problem}")
    failure.__cause__ = problem
    return failure


def unusable(path: Path, problem: sqlite3.Error | OSError) -> Unusable:
    """Why the program cannot start with this file, in one line."""
    if isinstance(problem, OSError):
        return Unusable(f"cannot open {path}: {problem.strerror}")
    if _primary_code(problem) == sqlite3.SQLITE_NOTADB:
        return Unusable(f"{path} is not a SQLite database")
    return Unusable(f"cannot open {path}: {problem}")


def _primary_code(problem: sqlite3.Error) -> int:
    # Errors that Python's own module raises carry no code.
    code: int = getattr(problem, "sqlite_errorcode", 0)
    return code & _PRIMARY
