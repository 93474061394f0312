"""A stranger's device: it signs and verifies by the contract's words and the standard library alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

_SIGNATURE = re.compile(rb',\s*"signature"\s*:\s*"([^"]+)"(?=\s*\}\s*$)')


def sign(body: str, secret: str) -> bytes:
    """Sign a text that ends in a brace (contract, section 2)."""
    digest = hmac.new(secret.encode(), body.encode(), hashlib.sha256).digest()
    return f'{body[:-1]},"signature":"{base64.b64encode(digest).decode()}"{body[-1]}'.encode()


def split(message: bytes) -> tuple[bytes, bytes]:
    """The signed bytes of a message, and its signature."""
    found = _SIGNATURE.search(message)
    assert found is not None, message
    return message[: found.start()] + message[found.end() :], base64.b64decode(found[1])


@dataclass
class Device:
    """An agent: all that it knows is its credentials and the contract. Its clock is an hour behind."""

    id: str
    secret: str
    token: str
    moment: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(hours=1))

    def next_moment(self) -> str:
        self.moment += timedelta(milliseconds=1)
        return self.moment.isoformat()

    def sign(self, **members: Any) -> bytes:
        """A signed message, its text put together by hand."""
        body = json.dumps({"agentId": self.id, "timestamp": self.next_moment(), **members})
        return sign(body, self.secret)

    def sample(self, cpu: float = 1.0, **more: Any) -> bytes:
        return self.sign(metrics={"cpu": cpu, **more}, status="online")

    def verify(self, message: bytes) -> dict[str, Any]:
        """The content of a message of the server, its signature checked by hand."""
        signed, signature = split(message)
        assert signature == hmac.new(self.secret.encode(), signed, hashlib.sha256).digest()
        content: dict[str, Any] = json.loads(message)
        return content
