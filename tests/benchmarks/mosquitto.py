"""A Mosquitto for a measurement, on a free port."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.server import HOST
from tests.mosquitto import find_mosquitto

_CONFIG = """
listener {port} {host}
allow_anonymous true
max_queued_messages 1000000
max_inflight_messages 1000
log_dest none
"""
_PATIENCE = 10.0  # seconds
_STEP = 0.01


@contextmanager
def running_mosquitto(directory: Path) -> Iterator[int]:
    """Its port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    config = directory / "mosquitto.conf"
    config.write_text(_CONFIG.format(port=port, host=HOST))
    with subprocess.Popen([find_mosquitto(), "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_STEP)
        else:
            return
