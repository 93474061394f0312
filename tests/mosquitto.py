"""A real Mosquitto for tests, on a free port, with the configuration that the test gives it.

Where Mosquitto is not installed a test that asks for it is skipped; with `PINGUP_REQUIRE_ALL` set, as in
CI, it fails instead.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

REQUIRE_ALL = "PINGUP_REQUIRE_ALL"
HOST = "127.0.0.1"
SHIPPED = Path(__file__).parent.parent / "broker_config"
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


@dataclass(frozen=True)
class Dynsec:
    """A running broker with dynamic security that knows nobody but its administrator."""

    mosquitto: Mosquitto
    admin: str
    password: str

    @property
    def port(self) -> int:
        return self.mosquitto.port

    @property
    def control_url(self) -> str:
        """What Pingup's setting `mqtt.control_url` needs."""
        return self.url(self.admin, self.password)

    def url(self, user: str, password: str) -> str:
        return f"mqtt://{user}:{password}@{HOST}:{self.port}"


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


def find_dynsec() -> Path:
    """The dynamic security plugin that came with Mosquitto."""
    name = "mosquitto_dynamic_security.so"
    found = next(
        iter(sorted(Path("/usr").glob(f"lib/{name}")) or sorted(Path("/usr").glob(f"lib/*/{name}"))), None
    )
    if found is not None:
        return found
    if os.environ.get(REQUIRE_ALL):
        pytest.fail(f"{name} is not installed, and {REQUIRE_ALL} is set")
    pytest.skip(f"{name} is not installed")


def free_port() -> int:
    """A port that nobody listens on now; whoever opens it must be ready for it to be taken after all."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running_mosquitto(
    directory: Path, config: str, port: int | None = None
) -> AsyncIterator[Mosquitto]:
    """Run Mosquitto inside `directory`, where the relative paths of its configuration begin.

    Args:
        directory: where the configuration and the log are written; the caller puts passwords and the
            like beside them.
        config: the text of a mosquitto.conf that logs to stderr. Its line `listener 1883 127.0.0.1`
            gets a free port.
        port: one that it had before, when it is started again.
    """
    for _ in range(_ATTEMPTS):
        listens_on = port or free_port()
        process = await _start(directory, _adapt(config, listens_on))
        try:
            async with asyncio.timeout(_START_LIMIT):
                await _wait_until_running(process, directory / LOG)
            yield Mosquitto(listens_on, directory, process)
            return
        except PortTaken:
            continue
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
    raise PortTaken(f"no port stayed free in {_ATTEMPTS} attempts")


@asynccontextmanager
async def running_dynsec(directory: Path) -> AsyncIterator[Dynsec]:
    """Run Mosquitto as `broker_config/mosquitto-dynsec` ships it, inside `directory`.

    What it knows of accounts outlives it: run it there again, and they are as they were.
    """
    accounts, password_file = directory / "dynamic-security.json", directory / "admin.password"
    if not accounts.exists():
        password_file.write_text(secrets.token_urlsafe(16))
        await _init_dynsec(accounts, "admin", password_file.read_text())
    config = (SHIPPED / "mosquitto-dynsec" / "mosquitto.conf").read_text("utf-8")
    config = re.sub(r"^plugin .*$", f"plugin {find_dynsec()}", config, count=1, flags=re.MULTILINE)
    async with running_mosquitto(directory, config) as mosquitto:
        yield Dynsec(mosquitto, "admin", password_file.read_text())


async def _init_dynsec(path: Path, admin: str, password: str) -> None:
    """As the README says, but without a terminal for the password."""
    process = await asyncio.create_subprocess_exec(
        *(find_program("mosquitto_ctrl"), "dynsec", "init", str(path), admin, password),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out


def make_certificate(directory: Path) -> None:
    """Put a broker's certificate and its own authority there, by the names in the shipped configuration."""
    command = [
        *(find_program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", "/CN=broker", "-addext", f"subjectAltName=IP:{HOST}"),
        *("-keyout", str(directory / "server.key"), "-out", str(directory / "server.crt")),
    ]
    subprocess.run(command, check=True, timeout=_START_LIMIT, capture_output=True)
    (directory / "ca.crt").write_bytes((directory / "server.crt").read_bytes())


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
    # A client that waited for it may be in the log already.
    while " running\n" not in (text := _read(log)):
        if "Address already in use" in text:
            raise PortTaken(text)
        if process.returncode is not None:
            pytest.fail(f"mosquitto did not start:\n{text}")
        await asyncio.sleep(0.01)


def _read(log: Path) -> str:
    return log.read_text("utf-8")
