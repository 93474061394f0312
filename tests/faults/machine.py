"""The server as a process: started, killed, frozen, traced, and its memory watched."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import resource
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.mosquitto import find_program

HOST = "127.0.0.1"
LIMIT = 30.0  # seconds for a start, an end, a recovery
ROOT = Path(__file__).parents[2]
_READY = re.compile(r"pingup ready .*\n")
_STOPPED = re.compile(r"^State:\s+T", re.MULTILINE)
_SAMPLE_EVERY = 0.1
# Below the ports that the kernel gives to clients: nobody takes one while its server is down.
_PORTS = range(20_000, 32_000)


class Broken(Exception):
    """An invariant doesn't hold."""


@asynccontextmanager
async def within(seconds: float, otherwise: str) -> AsyncIterator[None]:
    """Around what may take so long at most; `otherwise` is what is wrong if it takes longer.

    Raises:
        Broken: it does.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Broken(f"{otherwise} in {seconds:.0f} s") from None


def fixed_port() -> int:
    """A port that is free, and stays it while its server is dead."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


async def until_said(file: Path, wanted: re.Pattern[str], process: Process, errors: Path) -> None:
    """Wait for a line in what a process writes.

    Raises:
        Broken: it has ended instead, or said nothing in time.
    """
    try:
        async with asyncio.timeout(LIMIT):
            while not wanted.search(read(file)):
                if process.returncode is not None:
                    raise Broken(f"it did not start, exit code {process.returncode}:\n{_tail(errors)}")
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise Broken(f"not ready after {LIMIT:.0f} s:\n{_tail(errors)}") from None


def strace(calls: str, fault: str, *paths: Path) -> list[str]:
    """The beginning of a command that has these system calls fail, as `strace -e inject` describes it.

    Only those on the `paths`, if there are any. The traced program keeps the process id.
    """
    only = [word for path in paths for word in ("-P", str(path))]
    inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    return [find_program("strace"), "-D", "-f", "-I2", "-o", os.devnull, *only, *inject]


class Server:
    """`pingup serve` on one data directory and the same ports, in as many lives as a case needs."""

    def __init__(self, directory: Path, flags: list[str]) -> None:
        """`flags` are those beside the ports and the directory."""
        self.data = directory / "data"
        self.log = directory / "server.log"
        self._out = directory / "server.out"
        self._flags = flags
        self.http_port, self.mqtt_port = fixed_port(), fixed_port()
        self.has_journal = False
        """Whether its next life puts small deposits into the journal first."""
        self.peak_rss = 0.0
        """The most resident memory of any of its lives, in MB (10⁶ bytes)."""
        self.has_crashed = False
        """Whether the life before this one, or this one, did not end cleanly."""
        self._process: Process | None = None
        self._watching: asyncio.Task[None] | None = None

    def use_broker(self, url: str) -> None:
        """Have it connect to a broker outside, from its next start on."""
        self._flags = [*self._flags, "--mqtt-url", url]

    @property
    def duckdb(self) -> Path:
        return self.data / "analytics.duckdb"

    @property
    def duckdb_log(self) -> Path:
        return self.data / "analytics.duckdb.wal"

    @property
    def journal(self) -> Path:
        """Where small deposits are before they are in DuckDB's log."""
        return self.data / "analytics.journal"

    @property
    def logs(self) -> list[Path]:
        """What must be on the disk when something is acknowledged is in one of these."""
        return [self.duckdb_log, self.journal] if self.has_journal else [self.duckdb_log]

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def admin_token(self) -> str:
        return (self.data / "admin.token").read_text().strip()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, *prefix: str, environ: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it is ready. `prefix` is a program that becomes it, strace for one.

        Raises:
            Broken: it doesn't come up.
        """
        await self.spawn(*prefix, environ=environ)
        await self.ready()

    async def spawn(self, *prefix: str, environ: Mapping[str, str] | None = None) -> None:
        """Start it and don't wait."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PINGUP_")}
        clean["PINGUP_STORAGE__JOURNAL"] = str(self.has_journal).lower()
        command = [*prefix, sys.executable, "-m", "pingup", "serve", "--data-dir", str(self.data)]
        ports = ["--http-port", str(self.http_port), "--mqtt-port", str(self.mqtt_port)]
        with self._out.open("wb") as out, self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                *ports,
                *self._flags,
                env={**clean, **(environ or {})},
                stdout=out,
                stderr=log,
                cwd=ROOT,
            )
        self._watching = asyncio.create_task(self._watch())

    async def ready(self) -> None:
        await until_said(self._out, _READY, self.process, self.log)

    async def kill(self) -> None:
        """End it without a warning."""
        self._look()
        if self.is_running:
            self.process.kill()
        await self.died()

    async def died(self) -> None:
        """Wait for its end."""
        async with within(LIMIT, "the server doesn't end"):
            await self.process.wait()
        self.has_crashed = self.process.returncode != 0
        await self._stop_watching()

    async def stop(self) -> None:
        """Stop it as a supervisor does.

        Raises:
            Broken: it doesn't end cleanly.
        """
        self._look()
        self.process.send_signal(signal.SIGTERM)
        await self.died()
        if self.process.returncode != 0:
            raise Broken(f"SIGTERM ended it with {self.process.returncode}:\n{_tail(self.log)}")

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    async def stand_still(self) -> None:
        """Freeze it, and wait until each of its threads has stopped, so that its files stay as they are."""
        async with within(LIMIT, "the server doesn't stand still"):
            while self._moves():
                self.freeze()
                await asyncio.sleep(0.001)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def untrace(self) -> None:
        """Send strace away, and with it what it made fail."""
        async with within(LIMIT, "strace doesn't let go of the server"):
            while tracer := int(self._status("TracerPid") or 0):
                os.kill(tracer, signal.SIGTERM)
                await asyncio.sleep(0.01)

    def limit_files(self, size: int = resource.RLIM_INFINITY) -> None:
        """Let no file of it grow beyond so many bytes, from now on."""
        _, most = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, most))

    async def close(self) -> None:
        """Leave nothing running, whatever has happened."""
        if self.is_running:
            self.thaw()
            await self.kill()
        await self._stop_watching()

    async def call(self, method: str, path: str, body: Any = None, status: int | None = 200) -> Any:
        """A REST call as admin; the decoded answer. Raises aiohttp.ClientError while nobody answers."""
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        timeout = aiohttp.ClientTimeout(total=LIMIT)
        url = f"http://{HOST}:{self.http_port}{path}"
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.request(method, url, json=body, headers=headers) as answer,
        ):
            text = await answer.text()
            if status is not None and answer.status != status:
                raise Broken(f"{method} {path}: {answer.status} {text}")
            return json.loads(text)

    async def health(self) -> Any:
        return await self.call("GET", "/health", status=None)

    async def _watch(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(_SAMPLE_EVERY)

    async def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    def _look(self) -> None:
        if (kilobytes := self._status("VmHWM")) is not None:
            self.peak_rss = max(self.peak_rss, kilobytes * 1024 / 1e6)

    def _moves(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task").glob("*/status")
        return any(_STOPPED.search(read(thread)) is None for thread in threads)

    def _status(self, name: str) -> int | None:
        """A number out of proc(5), None if the process has gone."""
        with suppress(OSError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            if (found := re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)) is not None:
                return int(found[1])
        return None


def size_of(file: Path) -> int:
    """In bytes; a file that isn't there has none."""
    return file.stat().st_size if file.exists() else 0


def read(file: Path) -> str:
    return file.read_text("utf-8", "replace")


def _tail(file: Path) -> str:
    return read(file)[-3000:]
