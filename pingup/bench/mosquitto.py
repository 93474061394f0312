"""A Mosquitto for a measurement, and the programs that come with it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pingup.bench.server import HOST, Unmeasured, free_port, processor_time

# Limits and persistence as in broker_config/mosquitto, but nobody is asked who they are (which would make the
# broker slower), and there is room for a backlog of any size.
_CONFIG = """
listener {port} {host}
allow_anonymous true
max_queued_messages 10000000
max_queued_bytes 8000000000
max_inflight_messages 1000
set_tcp_nodelay true
persistence true
persistence_location {directory}/
autosave_interval 30
max_packet_size 1048576
log_dest stderr
log_type error
log_type warning
"""
_PACKAGES = {"mosquitto": "mosquitto", "mosquitto_sub": "mosquitto-clients"}
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
_PATIENCE = 10.0  # seconds
_STEP = 0.01


class Missing(Unmeasured):
    """A program that a case needs is not installed."""


class Mosquitto(msgspec.Struct, frozen=True):
    """A running broker."""

    port: int
    pid: int

    @property
    def processor_time(self) -> float:
        """Seconds that it has spent so far, user and system."""
        return processor_time(self.pid)


def find_program(name: str) -> str:
    """The path of a program.

    Raises:
        Missing: it is not installed; the text names the package that has it.
    """
    path = shutil.which(name, path=_SEARCH_PATH)
    if path is None:
        raise Missing(f"{name} is not installed (Debian, Ubuntu: apt-get install {_PACKAGES[name]})")
    return path


def mosquitto_version() -> str | None:
    """None when it is not installed."""
    try:
        program = find_program("mosquitto")
    except Missing:
        return None
    told = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\S+)", told)
    return found[1] if found else "of an unknown version"


@contextmanager
def running_mosquitto(directory: Path) -> Iterator[Mosquitto]:
    """A fresh one, which keeps its files in `directory`.

    Raises:
        Missing: it is not installed.
        Unmeasured: it does not start.
    """
    program = find_program("mosquitto")
    directory.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), directory / "mosquitto.log"
    config = directory / "mosquitto.conf"
    # Started by root, Mosquitto would become a user who cannot write into a private directory.
    user = "user root\n" if os.geteuid() == 0 else ""
    config.write_text(_CONFIG.format(port=port, host=HOST, directory=directory) + user, "utf-8")
    with (
        log.open("wb") as errors,
        subprocess.Popen([program, "-c", str(config)], stderr=errors) as process,
    ):
        try:
            _wait_for(process, port, log)
            yield Mosquitto(port, process.pid)
        finally:
            # Not asked to stop: it would write all that waits in it to the disk.
            process.kill()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unmeasured(f"mosquitto did not start: {log.read_text('utf-8')}") from None
            time.sleep(_STEP)
        else:
            return
