"""Where what was acknowledged is: in the journal, or in DuckDB's log, and before which byte of it.

All is concluded from the sizes of the two files, looked at whenever a device sends or hears something.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.machine import size_of
from tests.faults.message import Message, Row


@dataclass
class Promise:
    """An acknowledged message: it is in the journal before a size of that, or else in DuckDB before a size of
    its log. 0 says that it is not in the journal, or that it is in the tables."""

    message: Message
    journal: int
    log: int


class Ledger:
    """Follows what is acknowledged from the journal to the log to the tables.

    Have it told of every message before it is sent and once it is acknowledged, and `look` in the end.
    """

    def __init__(self, journal: Path, log: Path) -> None:
        self._journal, self._log = journal, log
        self._journal_size = self._log_size = 0
        self._log_size_before: dict[Message, int] = {}
        """The log's size when a message was sent for the first time."""
        self._pending: list[Promise] = []
        """What is in the journal, as far as can be seen."""
        self._applied: list[Promise] = []
        self.log_sizes: set[int] = set()
        """Where a transaction was seen to end."""

    def depart(self, message: Message) -> None:
        self.look()
        self._log_size_before.setdefault(message, self._log_size)

    def note(self, message: Message) -> None:
        self.look()
        self.log_sizes.add(self._log_size)
        self._pending.append(Promise(message, self._journal_size, self._log_size))
        if not self._journal_size:
            self._apply()

    def look(self) -> None:
        """See what has moved."""
        journal_size, log_size = self._journal_size, self._log_size
        # In this order: what is gone from the journal is in the log by the time that the log is looked at.
        self._journal_size = size_of(self._journal)
        self._log_size = size_of(self._log)
        if self._log_size < log_size:
            for promise in self._applied:
                promise.log = 0
        if self._log_size != log_size:
            # The journal may have been cleared, even if it has grown since to more than it was.
            for promise in self._pending:
                promise.log = self._log_size
        if self._journal_size < journal_size:
            self._apply()

    def _apply(self) -> None:
        """The journal was cleared: what was in it is in the log."""
        for promise in self._pending:
            promise.journal, promise.log = 0, self._log_size
        self._applied += self._pending
        self._pending.clear()

    @property
    def messages(self) -> list[Message]:
        return [promise.message for promise in self._promises()]

    def before(self, file: Path, offset: int) -> set[Row]:
        """The rows that damage to this one of the files from there on can't have touched."""
        is_untouched = self._is_journal_before if file == self._journal else self._is_log_before
        return {
            row
            for promise in self._promises()
            if is_untouched(promise, offset)
            for row in promise.message.rows
        }

    def _promises(self) -> Iterator[Promise]:
        yield from self._applied
        yield from self._pending

    def _is_journal_before(self, promise: Promise, offset: int) -> bool:
        return promise.journal <= offset

    def _is_log_before(self, promise: Promise, offset: int) -> bool:
        # Without a commit since it was sent it is in the journal.
        return promise.log <= offset or self._log_size_before[promise.message] == self._log_size
