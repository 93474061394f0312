"""The server under measurement: `pingup serve` as a process of its own."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
import psutil

from pingup.errors import Unusable

HOST = "127.0.0.1"
_PATIENCE = 60  # seconds for a start, an end or an answer
_IDLE = 30.0  # seconds
_STEP = 0.01
_MB = 1e6


class Unmeasured(Unusable):
    """A case can't be measured, or the server did not do what it should; the text says why."""


def processor_time(pid: int) -> float:
    """Seconds that a process and its children have spent so far, user and system."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(float(one.user + one.system) for one in times)


@contextmanager
def start_process(*arguments: str, log: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run `pingup` with these arguments; its log goes to a file. At the end it gets SIGTERM."""
    # As installed: with byte code kept from the last start.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "pingup", *arguments]
    with (
        log.open("a", encoding="utf-8") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=kept | environ
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            process.wait(_PATIENCE)


def serve(data_dir: Path, *more: str, http_port: int = 0) -> tuple[str, ...]:
    """The arguments of a server on free ports."""
    return ("serve", "--data-dir", str(data_dir), "--http-port", str(http_port), "--mqtt-port", "0", *more)


def at_broker(port: int) -> tuple[str, str]:
    """The arguments of a server that stands behind a broker."""
    return ("--mqtt-url", f"mqtt://server@{HOST}:{port}")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server:
    """A server that is ready. `http` and `mqtt` are the ports that it listens on."""

    def __init__(self, process: subprocess.Popen[str], http: int, mqtt: int, admin_token: str) -> None:
        self.pid = process.pid
        self.http = http
        self.mqtt = mqtt
        self.admin_token = admin_token
        self.ready_at = time.time()
        """Seconds since the epoch."""
        self._connection = HTTPConnection(HOST, http, timeout=_PATIENCE)
        self._used_at = time.monotonic()

    @classmethod
    @contextmanager
    def start(cls, data_dir: Path, *more: str, journal: bool = False) -> Iterator[Self]:
        """`more` are further arguments, `journal` whether small deposits go into the journal first.

        Raises:
            Unmeasured: it does not start.
        """
        log = data_dir.with_suffix(".log")
        token = secrets.token_urlsafe(32)
        environ = {"PINGUP_ADMIN_TOKEN": token, "PINGUP_STORAGE__JOURNAL": str(journal).lower()}
        with start_process(*serve(data_dir, *more), log=log, **environ) as process:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            words = process.stdout.readline().split()
            if words[:2] != ["pingup", "ready"]:
                raise Unmeasured(f"the server did not start: {log.read_text('utf-8')}")
            http, mqtt = (urlsplit(word.partition("=")[2]).port or 0 for word in words[2:])
            yield cls(process, http, mqtt, token)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """A REST call as admin on a kept connection; the document that it is answered with.

        Raises:
            Unmeasured: the answer is an error.
        """
        status, text = self.ask(method, path, body)
        if status >= 400:
            raise Unmeasured(f"{method} {path} was answered with {status}: {text.decode()}")
        return msgspec.json.decode(text)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """The same, but whatever the answer: its status, and its bytes."""
        headers = {"Authorization": f"Bearer {self.admin_token}", "Content-Type": "application/json"}
        payload = None if body is None else msgspec.json.encode(body)
        # The server closes what was idle for long.
        if time.monotonic() - self._used_at > _IDLE:
            self._connection.close()
        self._used_at = time.monotonic()
        self._connection.request(method, path, payload, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def wait_for_broker(self) -> None:
        """Wait until the link to a broker elsewhere is up.

        Raises:
            Unmeasured: it is not, after a minute.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            _, text = self.ask("GET", "/health")
            if msgspec.json.decode(text)["components"]["mqtt"]["status"] == "healthy":
                return
            if time.monotonic() > deadline:
                raise Unmeasured(f"the server has no link to its broker: {text.decode()}")
            time.sleep(_STEP)

    @property
    def processor_time(self) -> float:
        """Seconds that it has spent so far, user and system."""
        return processor_time(self.pid)

    @property
    def rss(self) -> float:
        """Resident memory now, in MB (10⁶ bytes)."""
        return self._status("VmRSS")

    @property
    def peak_rss(self) -> float:
        """The most resident memory since its start, in MB."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        """A size out of proc(5), where it is in KiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024 / _MB
        raise Unmeasured(f"the kernel does not tell {name}")
