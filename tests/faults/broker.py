"""Mosquitto as the broker outside, with the settings that we ship, killed and started again."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path

from tests.faults.machine import HOST, LIMIT, ROOT, fixed_port, until_said
from tests.faults.message import Device
from tests.mosquitto import LISTENER, find_mosquitto, find_program

_SHIPPED = ROOT / "broker_config" / "mosquitto"
_RUNNING = re.compile(r" running\n")
_WATCHER = "operator.watcher"
_ACCESS = f"""
user {_WATCHER}
topic read pingup/#
"""
_RELOADED = re.compile(r"Reloading config")


class Broker:
    """A Mosquitto on one port and one directory, in as many lives as a case needs."""

    def __init__(self, directory: Path) -> None:
        self.port = fixed_port()
        self._directory = directory
        self._log = directory / "mosquitto.log"
        self._password = secrets.token_urlsafe(16)
        self._process: Process | None = None

    def url(self, port: int | None = None) -> str:
        """What the server calls it by; `port` is that of a proxy before it."""
        return f"mqtt://server:{self._password}@{HOST}:{port or self.port}"

    @property
    def watcher(self) -> tuple[str, str]:
        """The user name and the password of somebody who may see everything."""
        return _WATCHER, self._password

    async def start(self) -> None:
        """Start it and wait until it listens; the first time with nobody but the server let in."""
        if not self._directory.exists():
            shutil.copytree(_SHIPPED, self._directory)
            await self._write_passwords([])
            access = self._directory / "acl"
            access.write_text(access.read_text("utf-8") + _ACCESS)
            config = self._directory / "mosquitto.conf"
            config.write_text(_adapt(config.read_text("utf-8"), self.port))
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                find_mosquitto(), "-c", "mosquitto.conf", cwd=self._directory, stderr=log
            )
        await until_said(self._log, _RUNNING, self._process, self._log)

    async def admit(self, devices: Sequence[Device]) -> None:
        """Let these agents in, and no others."""
        await self._write_passwords(devices)
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        await until_said(self._log, _RELOADED, self._process, self._log)

    async def kill(self) -> None:
        """End it without a warning."""
        assert self._process is not None
        self._process.kill()
        async with asyncio.timeout(LIMIT):
            await self._process.wait()

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    async def _write_passwords(self, devices: Sequence[Device]) -> None:
        path = self._directory / "passwords"
        own = [f"server:{self._password}", f"{_WATCHER}:{self._password}"]
        lines = [*own, *(f"{device.id}:{device.token}" for device in devices)]
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        hashing = await asyncio.create_subprocess_exec(find_program("mosquitto_passwd"), "-U", str(path))
        async with asyncio.timeout(LIMIT):
            assert await hashing.wait() == 0


def _adapt(config: str, port: int) -> str:
    adapted = config.replace(f"\n{LISTENER}\n", f"\nlistener {port} {HOST}\n")
    assert adapted != config
    # Started by root, Mosquitto would become a user who cannot read a test's directory.
    return f"{adapted}\nuser root\n" if os.geteuid() == 0 else adapted
