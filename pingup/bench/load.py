"""What a load is, what comes of one, and how a generator is told."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

_BUSY = 0.9


class Kind(StrEnum):
    """How a load speaks to the server."""

    MQTT = "mqtt"
    """PUBLISH with QoS 1, answered by PUBACK."""
    POST = "post"
    """A sample a call."""
    NDJSON = "ndjson"
    """`samples` messages a call."""
    GET = "get"
    """`path`, by every agent."""
    REGISTER = "register"
    """New agents, as admin."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be sent: by each of `agents` agents `each` messages, over `connections` connections.

    A connection carries the messages of every so-manieth agent in the order of time; it is logged in as the
    first of them, which only a broker that asks nobody lets publish for others.
    """

    kind: Kind
    agents: int
    each: int
    connections: int
    first_agent: int = 0
    samples: int = 1
    """In a message of MQTT (more than one is a batch), or in a body of NDJSON."""
    numbered: bool = True
    """With stream, seq and first, as Pingup's own agent sends them; MQTT only."""
    first_seq: int = 1
    window: int = 1
    """Unanswered messages of a connection."""
    rate: float | None = None
    """Messages a second of all connections together; None for as fast as they are answered."""
    timed: bool = True
    """Whether each answer is timed, and asked for at once. Otherwise connections are looked after every few
    milliseconds, which costs the machine least."""
    spacing: float = 0
    """Seconds between an agent's samples, 0 for as close as they can be and all in the past."""
    path: str = ""
    """What GET asks for; `{agent}` stands for the id of whoever asks."""
    token: str = ""
    """The bearer for REGISTER."""

    @property
    def messages(self) -> int:
        """Of all agents together."""
        return self.agents * self.each


class Sent(msgspec.Struct, frozen=True):
    """What came of a load, from its first byte to its last answer.

    `began` is in seconds since the epoch, `own_cpu` the generator's processor time in seconds. `latencies`
    are seconds from sending to the answer, in order of size, and `departures` by moment of the sample
    (microseconds since the epoch) when it was sent on the monotonic clock; both are there when it was timed.
    """

    began: float
    seconds: float
    messages: int
    own_cpu: float
    latencies: list[float]
    departures: dict[int, float]

    @property
    def rate(self) -> float:
        """Messages answered a second."""
        return self.messages / self.seconds

    @property
    def was_limit(self) -> bool:
        """Whether a faster generator might have shown more."""
        return self.own_cpu / self.seconds > _BUSY

    def percentile(self, percent: float) -> float:
        """Milliseconds that so many percent of the answers took at most (nearest rank)."""
        return percentile(self.latencies, percent)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """By nearest rank, of seconds in order of size; in milliseconds."""
    rank = -int(-len(ordered) * percent // 100)
    return ordered[max(rank, 1) - 1] * 1000


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Make and sign all messages of a load; answered by `Prepared`."""

    load: Load


class Send(msgspec.Struct, frozen=True, tag=True):
    """Send what is prepared to a port; answered by `Sent`, or by `Failure`."""

    port: int


class Prepared(msgspec.Struct, frozen=True):
    """All messages are there: their count, and their bytes."""

    messages: int
    size: int


class Failure(msgspec.Struct, frozen=True):
    """The server did not do what it should."""

    detail: str


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a generator says to an order: one of these."""

    prepared: Prepared | None = None
    sent: Sent | None = None
    failure: Failure | None = None
