"""Receivers that store nothing, to hold the server against: what a broker can give at all."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pingup.bench.generator import Generator
from pingup.bench.mosquitto import find_program, running_mosquitto
from pingup.bench.server import HOST, Unmeasured
from pingup.topics import UP_ALL

_PATIENCE = 120.0  # seconds


class Receiver(Protocol):
    """Started with a port and a count, it is subscribed already and ends after so many messages."""

    __name__: str

    def __call__(self, port: int, count: int) -> subprocess.Popen[bytes]: ...


def mosquitto_sub(port: int, count: int) -> subprocess.Popen[bytes]:
    """`mosquitto_sub -q 1 >/dev/null`, the fastest subscriber there is, with a session that is kept."""
    command = subscriber(port, UP_ALL, "-q", "1", "-c", "-i", "peer")
    subprocess.run([*command, "-E"], check=True, timeout=_PATIENCE)
    return subprocess.Popen([*command, "-C", str(count)], stdout=subprocess.DEVNULL)


def bare_session(port: int, count: int) -> subprocess.Popen[bytes]:
    """The server's own session with nothing behind it."""
    command = [sys.executable, "-m", "pingup.bench.bare", str(port), UP_ALL, str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    with process.stdout:
        if process.stdout.readline() != b"subscribed\n":
            raise Unmeasured("the bare session could not subscribe")
    return process


def subscriber(port: int, topic_filter: str, *more: str) -> list[str]:
    """The command line of mosquitto_sub."""
    return [find_program("mosquitto_sub"), "-h", HOST, "-p", str(port), "-t", topic_filter, *more]


def receive_all(receiver: Receiver, generator: Generator, directory: Path) -> float:
    """The messages a second until the receiver had the last one.

    Raises:
        Unmeasured: it did not get them all.
    """
    with running_mosquitto(directory) as broker:
        count = generator.prepared.messages
        with receiver(broker.port, count) as process:
            try:
                generator.begin(broker.port)
                process.wait(_PATIENCE)
                ended = time.time()
                sent = generator.end()
            except subprocess.TimeoutExpired as problem:
                raise Unmeasured(f"{receiver.__name__} did not get all messages") from problem
            finally:
                process.kill()
        return count / (ended - sent.began)


@contextmanager
def watching(port: int, topic_filter: str) -> Iterator[None]:
    """Somebody who looks at what is live."""
    command = subscriber(port, topic_filter)
    subprocess.run([*command, "-E"], check=True, timeout=_PATIENCE)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()
