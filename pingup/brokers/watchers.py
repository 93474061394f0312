"""Whether anybody may be watching a topic at a broker elsewhere, as far as its answers tell.

A broker answers a message with QoS 1 that nobody has subscribed to with "no matching subscribers" (MQTT 5,
section 3.4.2.1). So now and then a sample goes out as a question. Until the next one the answer holds, but
as long as messages are few they go out whatever it was; and some brokers never say it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

ASK_EVERY = 1.0  # seconds, of a topic
ASKED = 1_000  # questions in a second, of all topics
UNASKED = 2_000  # messages in a second to topics that nobody has subscribed to
_MOST_OWED = 5 * UNASKED


class _Known(msgspec.Struct, gc=False):
    """What the last answer was, and when the last question was asked."""

    is_watched: bool
    asked_at: float


class Watchers:
    """Learns from answers. A topic that nothing is known of may be watched."""

    def __init__(self, time: Callable[[], float]) -> None:
        """`time` is in seconds and never goes back."""
        self._time = time
        self._known: dict[str, _Known] = {}
        self._spare = float(UNASKED)
        self._counted_at = time()

    def may_watch(self, topic: str) -> bool:
        """Whether a message on this topic should be published."""
        known = self._known.get(topic)
        return known is None or known.is_watched or self._is_due(known) or self._has_spare()

    def should_ask(self, topic: str) -> bool:
        """Whether a message that is published now should be a question."""
        known = self._known.get(topic)
        return known is None or self._is_due(known)

    def asked(self, topic: str) -> None:
        """A message went out as a question."""
        now = self._time()
        known = self._known.get(topic)
        if known is None:
            self._known[topic] = _Known(is_watched=True, asked_at=now)
        else:
            known.asked_at = now

    def told(self, topic: str) -> None:
        """A message went out, and was no question."""
        known = self._known.get(topic)
        if known is not None and not known.is_watched:
            self._spare -= 1

    def learn(self, topic: str, *, is_watched: bool) -> None:
        """What the broker has answered."""
        known = self._known.get(topic)
        # Without a question it was forgotten in the meantime.
        if known is not None:
            known.is_watched = is_watched

    def forget(self, topic: str) -> None:
        """Nothing more is to be known of a topic."""
        self._known.pop(topic, None)

    def forget_all(self) -> None:
        """Know nothing: it may be another broker."""
        self._known.clear()

    def _is_due(self, known: _Known) -> bool:
        # Of a large fleet each is asked less often.
        return self._time() - known.asked_at >= max(ASK_EVERY, len(self._known) / ASKED)

    def _has_spare(self) -> bool:
        now = self._time()
        more = (now - self._counted_at) * UNASKED
        self._spare = min(UNASKED, max(-_MOST_OWED, self._spare) + more)
        self._counted_at = now
        return self._spare > 0
