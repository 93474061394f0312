"""Signed messages of many agents, made as fast as they can be: what stays the same is made once."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from pingup import signing
from pingup.topics import Kind, up

_VARIANTS = 1_000
# cpu, ram, disk and latency as a device would report them, with one decimal.
_METRICS = [
    b'Z","metrics":{"cpu":%.1f,"ram":%.1f,"disk":71.4,"latency":%d},"status":"online"'
    % (number % 1000 / 10, 40 + number % 70 / 10, number % 100)
    for number in range(_VARIANTS)
]
_RECEIPT_EVERY = 100  # messages after which an agent has freed its spool


class Device(msgspec.Struct, frozen=True):
    """An agent with its credentials, which follow from its number."""

    id: str
    secret: str
    token: str


def device(number: int) -> Device:
    """The agent of this number, the same in every process."""
    agent_id = f"agent-{number:06}"
    secret = f"{agent_id}-is-measured-and-keeps-no-secret"
    return Device(agent_id, secret, signing.token_of(secret))


class Author:
    """Writes the messages of one agent."""

    def __init__(self, who: Device, *, numbered: bool = False, first_seq: int = 1) -> None:
        self.topic = up(who.id, Kind.METRICS).encode()
        self._secret = who.secret
        self._head = f'{{"agentId":"{who.id}","timestamp":"'.encode()
        self._numbered = numbered
        self._seq = first_seq - 1

    def sample(self, micros: int) -> bytes:
        """One sample of this moment, in microseconds since the epoch."""
        text = self._head + rfc3339(micros) + _METRICS[micros // 7 % _VARIANTS]
        return signing.sign(text + self._end(), self._secret)

    def batch(self, moments: list[int]) -> bytes:
        """A message with a sample for each moment, sent at the last of them."""
        samples = [
            b'{"timestamp":"' + rfc3339(micros) + _METRICS[micros // 7 % _VARIANTS] + b"}"
            for micros in moments
        ]
        text = self._head + rfc3339(moments[-1]) + b'Z","samples":[' + b",".join(samples) + b"]"
        return signing.sign(text + self._end(), self._secret)

    def _end(self) -> bytes:
        if not self._numbered:
            return b"}"
        self._seq += 1
        first = (self._seq - 1) // _RECEIPT_EVERY * _RECEIPT_EVERY + 1
        return b',"stream":"measured","seq":%d,"first":%d}' % (self._seq, first)


def rfc3339(micros: int) -> bytes:
    """Microseconds since the epoch as RFC 3339 in UTC, without the `Z`."""
    second, micro = divmod(micros, 1_000_000)
    return _second(second) + b"%06d" % micro


@lru_cache(maxsize=1_000)
def _second(second: int) -> bytes:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S.}".encode()
