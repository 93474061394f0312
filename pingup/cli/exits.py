"""How commands end: an expected problem is one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from pingup.errors import Unavailable, Unusable

FAILED = 1
NOT_ALLOWED = 4
UNREACHABLE = 5

# What `pip install pingup` leaves out, by module.
_SERVER_PACKAGES = frozenset({"aiohttp", "aiosqlite", "amqtt", "_duckdb", "mqtt5", "prometheus_client"})


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what may be expected to go wrong into one line and an exit code."""
    try:
        yield
    except Unusable as problem:
        leave(str(problem), problem.exit_code)
    except Unavailable as problem:
        leave(str(problem), FAILED)
    except ModuleNotFoundError as problem:
        if (problem.name or "").partition(".")[0] not in _SERVER_PACKAGES:
            raise
        package = (problem.name or "").lstrip("_")
        leave(f"the server needs the package {package}: pip install 'pingup[server]'", FAILED)


def leave(line: str, exit_code: int) -> NoReturn:
    """Say one line on stderr and end."""
    print(f"pingup: {line}", file=sys.stderr)
    sys.exit(exit_code)
