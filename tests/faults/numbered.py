"""A device that numbers its messages, and frees them by the server's receipts alone."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.contract import mqtt_packets as mqtt
from tests.contract.mqtt_packets import Packet, arrival
from tests.faults.load import Sender
from tests.faults.machine import Broken
from tests.faults.message import Author, Message
from tests.faults.record import Record

_SIGNATURE = re.compile(rb',\s*"signature"\s*:\s*"([^"]+)"(?=\s*\}\s*$)')
_MOST_HELD = 2_000
_RESEND_AFTER = 2.0  # seconds without a receipt for the oldest message


class NumberedSender(Sender):
    """A PUBACK only makes room for the next message; what has no receipt after a while is sent again."""

    def __init__(
        self, author: Author, supply: Iterator[Message], record: Record, port: int, **options: Any
    ) -> None:
        """`author` is who writes the supply; options are those of `Sender`."""
        super().__init__(author.device, supply, record, port, is_proof=False, **options)
        self._author = author
        self._oldest = 0
        self._oldest_since = 0.0

    def subscriptions(self) -> tuple[str, ...]:
        return (f"pingup/v1/down/{self.device.id}/receipts",)

    def has_room(self) -> bool:
        return super().has_room() and len(self._unfinished) < _MOST_HELD

    def take(self, packet: Packet) -> None:
        if packet.kind == mqtt.PUBLISH:
            self._take_receipt(arrival(packet).payload)
        else:
            super().take(packet)
        self._resend_if_due()

    def accepted(self, number: int) -> None:
        message = self._unfinished.get(number)
        if message is not None and not message.seq:
            self.release(number)

    def again(self) -> None:
        self._outgoing.extend(self._unfinished)
        self._may_send.set()

    def _take_receipt(self, payload: bytes) -> None:
        receipt = verify(payload, self.device.secret)
        if receipt["agentId"] != self.device.id or receipt["stream"] != self._author.stream:
            raise Broken(f"a receipt for somebody else: {receipt}")
        covered = [n for n, message in self._unfinished.items() if 0 < message.seq <= receipt["seq"]]
        for number in covered:
            self.release(number, proven=True)
        held = [message.seq for message in self._unfinished.values() if message.seq]
        self._author.first = min(held, default=receipt["seq"] + 1)

    def _resend_if_due(self) -> None:
        """What the broker has forgotten leaves a gap that no receipt goes beyond."""
        now = asyncio.get_running_loop().time()
        oldest = next(iter(self._unfinished), 0)
        if oldest != self._oldest:
            self._oldest, self._oldest_since = oldest, now
        elif oldest and now - self._oldest_since > _RESEND_AFTER and not self._outgoing:
            self._oldest_since = now
            self.again()


def verify(payload: bytes, secret: str) -> dict[str, Any]:
    """The content of a message of the server.

    Raises:
        Broken: its signature is not right.
    """
    found = _SIGNATURE.search(payload)
    signed = b"" if found is None else payload[: found.start()] + payload[found.end() :]
    digest = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest())
    if found is None or digest != found[1]:
        raise Broken(f"a message of the server is not signed as it should be: {payload[:200]!r}")
    content: dict[str, Any] = json.loads(payload)
    return content
