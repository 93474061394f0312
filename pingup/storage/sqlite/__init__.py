"""The registry in SQLite: agents, commands, configurations and tokens in `pingup.db`."""

from pingup.storage.sqlite.migrations import migrate
from pingup.storage.sqlite.registry import SQLiteRegistry

__all__ = ["SQLiteRegistry", "migrate"]
