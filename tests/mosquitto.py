"""A real Mosquitto for tests, on a free port, with the configuration that the test gives it.

Where Mosquitto is not installed a test that asks for it is skipped; with `PINGUP_REQUIRE_ALL` set, as in
CI, it fails instead.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

REQUIRE_ALL = "PINGUP_REQUIRE_ALL"
HOST = "127.0.0.1"
LISTENER = f"listener 1883 {HOST}"
LOG = "mosquitto.log"

_START_LIMIT = 10.0
_ATTEMPTS = 5
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


class PortTaken(Exception):
    """Somebody else opened the port between our looking and Mosquitto's opening it."""


@dataclass(frozen=True)
class Mosquitto:
    """A running broker. What it keeps is in `directory`, which outlives it."""

    port: int
    directory: Path
    process: asyncio.subprocess.Process

    def reload(self) -> None:
        """Read the passwords, the access list and most settings again."""
        self.process.send_signal(signal.SIGHUP)


def find_program(name: str) -> str:
    """The path of a program that a test needs; without it the test is skipped, or fails if nothing may be."""
    path = shutil.which(name, path=_SEARCH_PATH)
    if path is not None:
        return path
    if os.environ.get(REQUIRE_ALL):
        pytest.fail(f"{name} is not installed, and {REQUIRE_ALL} is set")
    pytest.skip(f"{name} is not installed")


def find_mosquitto() -> str:
    return find_program("mosquitto")


def free_port() -> int:
    """A port that nobody listens on now; whoever opens it must be ready for it to be taken after all."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running_mosquitto(directory: Path, config: str) -> AsyncIterator[Mosquitto]:
    """Run Mosquitto inside `directory`, where the relative paths of its configuration begin.

    Args:
        directory: where the configuration and the log are written; the caller puts passwords and the
            like beside them.
        config: the text of a mosquitto.conf that logs to stderr. Its line `listener 1883 127.0.0.1`
            gets a free port.
    """
    for _ in range(_ATTEMPTS):
        port = free_port()
        process = await _start(directory, _adapt(config, port))
        try:
            async with asyncio.timeout(_START_LIMIT):
                await _wait_until_running(process, directory / LOG)
            yield Mosquitto(port, directory, process)
            return
        except PortTaken:
            continue
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
    raise PortTaken(f"no port stayed free in {_ATTEMPTS} attempts")


def _adapt(config: str, port: int) -> str:
    assert config.count(f"\n{LISTENER}\n") == 1, f"the configuration needs exactly one line {LISTENER!r}"
    adapted = config.replace(f"\n{LISTENER}\n", f"\nlistener {port} {HOST}\n")
    # Started by root, Mosquitto would become a user who cannot read a test's directory.
    return f"{adapted}\nuser root\n" if os.geteuid() == 0 else adapted


async def _start(directory: Path, config: str) -> asyncio.subprocess.Process:
    path = directory / "mosquitto.conf"
    path.write_text(config, "utf-8")
    # The log goes to a file: nobody has to read it while the broker runs, and a failed test leaves it behind.
    with (directory / LOG).open("wb") as log:
        return await asyncio.create_subprocess_exec(
            find_mosquitto(), "-c", str(path), cwd=directory, stderr=log
        )


async def _wait_until_running(process: asyncio.subprocess.Process, log: Path) -> None:
    while not (text := _read(log)).endswith(" running\n"):
        if "Address already in use" in text:
            raise PortTaken(text)
        if process.returncode is not None:
            pytest.fail(f"mosquitto did not start:\n{text}")
        await asyncio.sleep(0.01)


def _read(log: Path) -> str:
    return log.read_text("utf-8")
