"""Messages that were not taken: counted by reason, and shown on `pingup/v1/sys/rejects`."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import datetime, timedelta

from pingup import codec
from pingup.clock import Clock
from pingup.errors import Reason
from pingup.ports import Downlink
from pingup.topics import SYS_REJECTS

log = logging.getLogger(__name__)
_LINE_EVERY = timedelta(seconds=1)


class Rejects:
    """Counts and shows refusals. The log gets at most one line a second, whoever floods the server."""

    def __init__(self, clock: Clock, downlink: Downlink) -> None:
        self._clock = clock
        self._downlink = downlink
        self._counts: Counter[Reason] = Counter()
        self._next_line: datetime | None = None
        self._unsaid = 0

    @property
    def counts(self) -> dict[Reason, int]:
        """How many messages were refused since the start, by reason."""
        return dict(self._counts)

    def note(self, *, agent_id: str | None, source: str, reason: Reason, detail: str) -> None:
        """Count a refusal and show it. `source` is the topic or the route that the message came by."""
        now = self._clock.now()
        self._counts[reason] += 1
        shown = {"agentId": agent_id, "topic": source, "reason": reason, "detail": detail, "at": now}
        self._downlink.emit(SYS_REJECTS, codec.encode(shown))
        if self._next_line is not None and now < self._next_line:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more before it)" if self._unsaid else ""
        log.warning("rejected a message from %s on %s: %s: %s%s", agent_id, source, reason, detail, more)
        self._next_line, self._unsaid = now + _LINE_EVERY, 0
