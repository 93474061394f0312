"""How a broker outside is named in settings: `mqtts://user:password@host:8883`."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import msgspec

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_RULE = "is no address like mqtt://user:password@host:1883 or mqtts://user:password@host"


class BrokerUrl(msgspec.Struct, frozen=True):
    """Where a broker is and how to log in; `tls` for `mqtts`. Nothing of the password is in any repr."""

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"BrokerUrl({str(self)!r})"

    def __str__(self) -> str:
        """For people: without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def parse_broker_url(text: str) -> BrokerUrl:
    """Read the address of a broker; user and password may hold percent-encoded characters.

    Raises:
        ValueError: it is none; the text says so without showing a password.
    """
    try:
        parts = urlsplit(text.strip())
        port = _PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    except ValueError:
        # It would be raised again with the text in it, for whoever prints tracebacks.
        raise ValueError(_RULE) from None
    is_bare = parts.path in ("", "/") and not parts.query and not parts.fragment
    if parts.scheme not in _PORTS or not parts.hostname or not port or not is_bare:
        raise ValueError(_RULE)
    username = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return BrokerUrl(parts.hostname, port, parts.scheme == "mqtts", username, password)
