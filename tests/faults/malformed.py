"""Messages that no server may store: broken in many ways, most of them with a right signature."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.faults.message import Device, Message, sign, topic_of

_NOT_NUMBERS: tuple[Any, ...] = ("12", True, [1], {"a": 1}, "")
_NOT_TEXTS: tuple[Any, ...] = (None, 7, 1.5, True, [], {})
_NOT_OBJECTS: tuple[Any, ...] = (None, 7, "text", True, [1, 2])
_NOT_STATUSES: tuple[Any, ...] = (*_NOT_TEXTS, "", "ONLINE", "a" * 33, "not this")
_NOT_MOMENTS: tuple[Any, ...] = (*_NOT_TEXTS, "", "yesterday", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00")
_NOT_METRICS: tuple[Any, ...] = (
    *_NOT_OBJECTS,
    {},
    {"cpu": None},
    {"": 1},
    {"x" * 65: 1},
    {"timestamp": 1},
    {"latency": 3_000_000_000},
    {f"metric-{number}": number for number in range(100)},
)
_NOT_HOSTS: tuple[Any, ...] = (
    *_NOT_OBJECTS,
    {"ip": 7, "latency": 1, "ports": []},
    {"ip": "10.0.0.1", "latency": "fast", "ports": []},
    {"ip": "10.0.0.1", "latency": 1, "ports": ["ssh"]},
    {"ip": "10.0.0.1", "latency": 1},
)


class Breaker:
    """Breaks one message after the other, each in a way that the seed chooses."""

    def __init__(self, device: Device, chance: Random) -> None:
        self._device = device
        self._chance = chance
        self._ways = (
            self._noise,
            self._torn,
            self._wrong_member,
            self._missing_member,
            self._wrong_number,
            self._wrong_batch,
            self._wrong_scan,
            self._deep,
            self._wide,
            self._wrong_time,
            self._signature_elsewhere,
            self._not_utf8,
        )

    def messages(self, count: int) -> Iterator[Message]:
        for _ in range(count):
            yield self._chance.choice(self._ways)()

    # --- ways to break a message -----------------------------------------------------------------------

    def _noise(self) -> Message:
        return self._message(self._chance.randbytes(self._chance.choice((0, 1, 10, 1000))))

    def _torn(self) -> Message:
        whole = self._sign(self._sample())
        return self._message(whole[: self._chance.randrange(len(whole) - 1)])

    def _wrong_member(self) -> Message:
        sample = self._sample()
        wrong = {
            "metrics": _NOT_METRICS,
            "status": _NOT_STATUSES,
            "timestamp": _NOT_MOMENTS,
            "agentId": _NOT_TEXTS,
        }
        name = self._chance.choice(list(wrong))
        sample[name] = self._chance.choice(wrong[name])
        return self._message(self._sign(sample))

    def _missing_member(self) -> Message:
        sample = self._sample()
        del sample[self._chance.choice(("agentId", "timestamp", "metrics", "status"))]
        return self._message(self._sign(sample))

    def _wrong_number(self) -> Message:
        wrong = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 40, "0x10", "01", "1.", "--1", "")
        number = self._chance.choice((*wrong, *(json.dumps(value) for value in _NOT_NUMBERS)))
        body = json.dumps(self._sample()).replace("12.5", number)
        return self._message(sign(body, self._device.secret))

    def _wrong_batch(self) -> Message:
        good = self._sample()
        del good["agentId"]
        bad = {**good, "metrics": self._chance.choice(_NOT_OBJECTS)}
        samples = self._chance.choice(([], [bad], [good, bad], [good] * 1001, "text", {"a": good}, [[good]]))
        body = {"agentId": self._device.id, "timestamp": good["timestamp"], "samples": samples}
        return self._message(self._sign(body))

    def _wrong_scan(self) -> Message:
        hosts = self._chance.choice((None, "text", 7, *([host] for host in _NOT_HOSTS)))
        scan = {"hosts": hosts, "duration": self._chance.choice((1, "long", None, 3_000_000_000))}
        body = {**self._sample(), "discovery": self._chance.choice((scan, None, [], "text"))}
        return self._message(self._sign(body), "discovery")

    def _deep(self) -> Message:
        depth = self._chance.choice((9, 100, 5_000))
        nest = (
            "[" * depth + "]" * depth if self._chance.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth
        )
        body = json.dumps(self._sample())[:-1] + f',"more":{nest}}}'
        return self._message(sign(body, self._device.secret))

    def _wide(self) -> Message:
        return self._message(
            self._sign({**self._sample(), "more": "x" * self._chance.choice((70_000, 300_000))})
        )

    def _wrong_time(self) -> Message:
        days = self._chance.choice((1, 31, 365, 100_000))
        away = timedelta(days=-days if days in (31, 365) else min(days, 365))
        return self._message(
            self._sign({**self._sample(), "timestamp": (datetime.now(UTC) + away).isoformat()})
        )

    def _signature_elsewhere(self) -> Message:
        signed = json.loads(self._sign(self._sample()))
        signature = signed.pop("signature")
        first = json.dumps({"signature": signature, **signed})
        inside = json.dumps({**signed, "metrics": {"cpu": 12.5, "signature": signature}})
        return self._message(self._chance.choice((first, inside)).encode())

    def _not_utf8(self) -> Message:
        body = json.dumps({**self._sample(), "more": "mark"}).replace("mark", "\udcff")
        return self._message(sign(body, self._device.secret))

    # --- what is broken ----------------------------------------------------------------------------------

    def _sample(self) -> dict[str, Any]:
        moment = datetime.now(UTC) - timedelta(hours=2)
        sample = {"agentId": self._device.id, "timestamp": moment.isoformat()}
        return deepcopy({**sample, "metrics": {"cpu": 12.5}, "status": "online"})

    def _sign(self, body: dict[str, Any]) -> bytes:
        return sign(json.dumps(body), self._device.secret)

    def _message(self, payload: bytes, kind: str = "metrics") -> Message:
        return Message(topic_of(self._device.id, kind), payload)
