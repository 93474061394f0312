"""What a connection to a broker needs to know before it begins."""

from __future__ import annotations

from pathlib import Path

import msgspec

KIB = 1024
MIB = 1024 * KIB


class Tls(msgspec.Struct, frozen=True):
    """How the broker is recognised (`ca_file`, None for the system's authorities), and we by it."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


class Credentials(msgspec.Struct, frozen=True):
    """A user of the broker. The password is in no repr."""

    username: str
    password: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, password=…)"


class Will(msgspec.Struct, frozen=True):
    """What the broker publishes for us when the connection ends without a goodbye, QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False


class Subscription(msgspec.Struct, frozen=True):
    """A topic filter. Each message comes with at most this QoS.

    `retained_once`: what is retained comes only to a session that did not have the subscription yet (Retain
    Handling 1). `own`: whether what is published on this same connection comes back.
    """

    topic_filter: str
    qos: int = 1
    retained_once: bool = False
    own: bool = True


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One connection. Times are in seconds, sizes in bytes.

    The defaults are those of a short visit that leaves nothing behind. A session is kept with
    `clean_start=False` and a `session_expiry`.
    """

    host: str
    port: int
    client_id: str
    tls: Tls | None = None
    credentials: Credentials | None = None
    clean_start: bool = True
    session_expiry: int = 0
    will: Will | None = None

    keep_alive: int = 30
    """0 for none. The broker may demand another one."""
    connect_within: float = 10.0
    """For name resolution, TCP, TLS and the broker's answer together."""
    leave_within: float = 2.0

    receive_maximum: int = 1_000
    """QoS 1 messages that the broker may send before the first one is acknowledged."""
    max_packet: int = 2 * MIB
    """The broker must not send larger ones."""
    unacknowledged_bytes: int = 16 * MIB
    """Reading pauses while the payloads of what is not yet acknowledged are more than this."""
    write_buffer: int = MIB
    """QoS 0 messages are dropped while more than this waits to be written."""

    @property
    def address(self) -> str:
        """Host and port as people write them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
