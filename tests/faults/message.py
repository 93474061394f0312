"""What strangers' devices send: genuine messages and what has to be stored of them, and forged ones.

Everything is put together and signed by hand from the contract; nothing of `pingup` is used.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

# A row of one of the two tables as a tuple that can be compared: the table's name, then its columns.
Row = tuple[object, ...]

MILLISECOND = timedelta(milliseconds=1)
_FORGED_CPU = 66.6


@dataclass(frozen=True)
class Device:
    """A registered agent: its credentials."""

    id: str
    secret: str
    token: str


@dataclass(frozen=True)
class Message:
    """A message on its way: `rows` are what must be stored of it once it is acknowledged, none if refused."""

    topic: str
    payload: bytes
    rows: tuple[Row, ...] = ()
    seq: int = 0
    """Its number in its device's stream, 0 for one that isn't numbered."""


def sign(body: str, secret: str) -> bytes:
    """Put the signature in before the final brace."""
    signed = body.encode("utf-8", "surrogateescape")
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return signed[:-1] + b',"signature":"' + base64.b64encode(digest) + b'"' + signed[-1:]


def topic_of(agent_id: str, kind: str = "metrics") -> str:
    return f"pingup/v1/up/{agent_id}/{kind}"


class Mixture:
    """What the devices of a scene write by turns: plain samples of now, which the server's journal can take,
    and all kinds, of moments that have passed, which make it look into its tables and commit at once.

    For a stretch there are only the ones, or only the others, or some of the others among the ones.
    """

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._plain = 0.0
        self._left = 0

    def is_plain(self) -> bool:
        """Whether the next message is a plain one."""
        if not self._left:
            self._plain = self._chance.choice((0.0, 0.8, 0.98, 1.0))
            self._left = round(10 ** self._chance.uniform(1, 3))
        self._left -= 1
        return self._chance.random() < self._plain


class Author:
    """Writes the messages of one device; those of one kind are each of a later moment than the one before."""

    def __init__(
        self,
        device: Device,
        chance: Random,
        mixture: Mixture,
        *,
        since: datetime | None = None,
        step: timedelta = MILLISECOND,
        stream: str | None = None,
    ) -> None:
        """`since` is the first of the passed moments, an hour ago unless named; `stream` numbers them."""
        self.device = device
        self._chance = chance
        self._mixture = mixture
        self._is_plain = False
        self._moment = since or datetime.now(UTC) - timedelta(hours=1)
        self._now = datetime.now(UTC)
        self._step = step
        self.stream = stream
        self.first = 1
        """The lowest number that the device still holds."""
        self._seq = 0

    def write(self) -> Message:
        """A genuine message: a sample as a rule, sometimes a batch of them or a scan."""
        self._is_plain = self._mixture.is_plain()
        draw = self._chance.random()
        if draw < 0.05 and not self._is_plain:
            return self._scan()
        if draw < 0.10:
            return self._batch()
        return self.sample()

    def sample(self) -> Message:
        members, row = self._measure()
        return self._finish("metrics", members, (row,))

    def forge(self, victim: Device) -> Message:
        """A message that must be refused; `victim` is whose name some of them take in vain."""
        members, _ = self._measure()
        members["metrics"]["cpu"] = _FORGED_CPU
        own, key = self.device.id, self.device.secret
        body = json.dumps({"agentId": own, **members})
        stolen = json.dumps({"agentId": victim.id, **members})
        kinds = (
            Message(topic_of(own), body.encode()),
            Message(topic_of(own), sign(body, key + "x")),
            Message(topic_of(own), sign(body, key).replace(b"66.6", b"66.7")),
            Message(topic_of(own), sign(body, victim.secret)),
            Message(topic_of(own), sign(stolen, key)),
            Message(topic_of(own), sign(stolen, victim.secret)),
            Message(topic_of(victim.id), sign(stolen, key)),
            Message(topic_of(victim.id), sign(stolen, victim.secret)),
            Message(topic_of(own, "nonsense"), sign(body, key)),
        )
        return self._chance.choice(kinds)

    def _measure(self) -> tuple[dict[str, Any], Row]:
        """The members of a sample, and its row."""
        metrics: dict[str, float] = {"cpu": round(self._chance.uniform(0, 100), 3)}
        if self._chance.random() < 0.5:
            metrics |= {"ram": self._chance.randrange(100) / 2, "latency": self._chance.randrange(500)}
        if self._chance.random() < 0.2:
            metrics["temperature"] = self._chance.randrange(100) / 4
        moment = self._advance()
        status = self._chance.choice(("online", "busy"))
        members = {"timestamp": moment.isoformat(), "metrics": metrics, "status": status}
        return members, sample_row(self.device.id, moment, metrics, status)

    def _advance(self) -> datetime:
        """The moment of the next sample."""
        if self._is_plain:
            self._now = max(self._now + MILLISECOND, datetime.now(UTC))
            return self._now
        # Now and then two samples of one moment, which only their values tell apart.
        if self._chance.random() < 0.9:
            self._moment += self._step
        return self._moment

    def _batch(self) -> Message:
        measured = [self._measure() for _ in range(self._chance.randrange(2, 8))]
        samples = [members for members, _ in measured]
        members = {"timestamp": samples[-1]["timestamp"], "samples": samples}
        rows = tuple(dict.fromkeys(row for _, row in measured))
        return self._finish("metrics", members, rows)

    def _scan(self) -> Message:
        self._moment += self._step
        duration = self._chance.randrange(30_000)
        hosts = [
            {"ip": f"10.0.0.{number}", "latency": self._chance.randrange(100), "ports": [22, 443]}
            for number in range(1, self._chance.randrange(1, 4) + 1)
        ]
        members = {
            "timestamp": self._moment.isoformat(),
            "discovery": {"hosts": hosts, "duration": duration},
        }
        rows = tuple(scan_row(self.device.id, self._moment, host, duration) for host in hosts)
        return self._finish("discovery", members, rows)

    def _finish(self, kind: str, members: dict[str, Any], rows: tuple[Row, ...]) -> Message:
        if self.stream is not None:
            self._seq += 1
            members |= {"stream": self.stream, "seq": self._seq, "first": min(self.first, self._seq)}
        body = json.dumps({"agentId": self.device.id, **members})
        return Message(topic_of(self.device.id, kind), sign(body, self.device.secret), rows, self._seq)


def sample_row(agent_id: str, moment: datetime, metrics: dict[str, float], status: str) -> Row:
    """A sample as `record.read_rows` finds it in the file."""
    further = {
        name: value for name, value in metrics.items() if name not in ("cpu", "ram", "disk", "latency")
    }
    columns = (metrics.get("cpu"), metrics.get("ram"), metrics.get("disk"), metrics.get("latency"), status)
    return ("metrics", agent_id, _naive(moment), *columns, json.dumps(further) if further else None)


def scan_row(agent_id: str, moment: datetime, host: dict[str, Any], duration: int) -> Row:
    """A host of a scan as `record.read_rows` finds it in the file."""
    ports = json.dumps(host["ports"])
    return ("discovery", agent_id, _naive(moment), host["ip"], host["latency"], ports, duration)


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
