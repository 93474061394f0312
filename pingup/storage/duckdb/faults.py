"""The driver's errors in our words.

A value that no column can hold is `Unstorable`; a file that can't be read or written now is `Unavailable`;
a statement that is wrong is a bug of ours and passes through.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pingup.errors import Unstorable
from pingup.storage.duckdb.driver import duckdb

# What turning values into rows can raise: the driver's conversions, and Python's own before them.
_UNSTORABLE = (
    duckdb.DataError,
    duckdb.InvalidInputException,
    duckdb.NotSupportedError,
    TypeError,
    ValueError,
    OverflowError,
)
# What a wrong statement raises.
BUGS = (duckdb.DataError, duckdb.IntegrityError, duckdb.NotSupportedError, duckdb.ProgrammingError)
# After these the driver refuses every further statement until the file is opened anew.
_BREAKING = (duckdb.FatalException, duckdb.InternalError, duckdb.ConnectionException)
# After a failed checkpoint it says so of an attached file, by an exception of any class.
_INVALIDATED = "has been invalidated"


@contextmanager
def refusing_values() -> Iterator[None]:
    """Around the step that hands values to the driver: what it can't take is `Unstorable`."""
    try:
        yield
    except _UNSTORABLE as fault:
        raise Unstorable(f"a record cannot be stored: {first_line(fault)}") from fault


def is_breaking(fault: duckdb.Error) -> bool:
    """Whether only opening the file anew can help."""
    return isinstance(fault, _BREAKING) or _INVALIDATED in str(fault)


def first_line(fault: BaseException) -> str:
    """The driver's message without the hints that follow it."""
    return str(fault).strip().partition("\n")[0] or type(fault).__name__
