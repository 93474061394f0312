"""Somebody who watches live topics, and notes when each sample was there to be seen."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Self

import msgspec

from pingup.bench.scripts import connect, subscribe
from pingup.bench.server import HOST

_PUBLISH = 0x30
_CONNACK_SIZE = 4
_SUBACK_SIZE = 5
_AT_ONCE = 1 << 20
_PATIENCE = 10.0  # seconds
_STEP = 0.01
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class _Shown(msgspec.Struct, frozen=True):
    timestamp: datetime


_shown = msgspec.json.Decoder(_Shown)


class Watcher:
    """Reads in a thread of its own until it is closed. `arrivals` is by moment of the sample, in microseconds
    since the epoch, when it came first on the monotonic clock."""

    def __init__(self, connection: socket.socket) -> None:
        self.arrivals: dict[int, float] = {}
        self._socket = connection
        self._buffer = b""

    @classmethod
    @contextmanager
    def open(cls, port: int, topic_filter: str, user: str, password: str) -> Iterator[Self]:
        """One that has subscribed."""
        with socket.create_connection((HOST, port), timeout=_PATIENCE) as connection:
            connection.sendall(connect("watcher", user, password) + subscribe(topic_filter))
            _read(connection, _CONNACK_SIZE + _SUBACK_SIZE)
            connection.settimeout(None)
            watcher = cls(connection)
            thread = threading.Thread(target=watcher._watch, name="watcher")
            thread.start()
            try:
                yield watcher
            finally:
                connection.shutdown(socket.SHUT_RDWR)
                thread.join()

    def wait_for(self, count: int) -> None:
        """Wait until so many samples were seen, or until there come no more."""
        deadline = time.monotonic() + _PATIENCE
        while len(self.arrivals) < count and time.monotonic() < deadline:
            time.sleep(_STEP)

    def _watch(self) -> None:
        while data := self._socket.recv(_AT_ONCE):
            now = time.monotonic()
            self._buffer += data
            for kind, body in self._packets():
                if kind == _PUBLISH:
                    topic_size = int.from_bytes(body[:2], "big")
                    moment = _shown.decode(body[2 + topic_size :]).timestamp
                    self.arrivals.setdefault((moment - _EPOCH) // _MICROSECOND, now)

    def _packets(self) -> Iterator[tuple[int, bytes]]:
        """The first byte without its retain bit, and the body of each packet that is there whole."""
        start = 0
        while (found := _extent(self._buffer, start)) is not None:
            begin, end = found
            yield self._buffer[start] & 0xFE, self._buffer[begin:end]
            start = end
        self._buffer = self._buffer[start:]


def _extent(data: bytes, start: int) -> tuple[int, int] | None:
    """Where the body of the packet at `start` begins and ends, None while it is not there whole."""
    size = shift = 0
    for position in range(start + 1, min(start + 5, len(data))):
        size |= (data[position] & 0x7F) << shift
        shift += 7
        if data[position] < 0x80:
            end = position + 1 + size
            return (position + 1, end) if end <= len(data) else None
    return None


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data
