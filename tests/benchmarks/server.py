"""The server under measurement: `pingup serve` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

HOST = "127.0.0.1"
_PATIENCE = 30  # seconds for a start or an end
_JSON = {"Content-Type": "application/json"}


class Device(msgspec.Struct, frozen=True):
    """A registered agent, with what it needs to speak to the server."""

    id: str
    secret: str
    token: str


@contextmanager
def start_process(*arguments: str, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `pingup` with these arguments; its log goes to a file. At the end it gets SIGTERM."""
    # As installed: with byte code kept from the last start.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "pingup", *arguments]
    with (
        log.open("a") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            process.wait(_PATIENCE)


def serve(data_dir: Path, *, http_port: int = 0) -> tuple[str, ...]:
    """The arguments of a server on free ports."""
    return ("serve", "--data-dir", str(data_dir), "--http-port", str(http_port), "--mqtt-port", "0")


class Server:
    """A server that is ready. `http` and `mqtt` are the ports that it listens on."""

    def __init__(self, pid: int, http: int, mqtt: int, admin_token: str) -> None:
        self.pid = pid
        self.http = http
        self.mqtt = mqtt
        self.admin_token = admin_token
        self._connection = HTTPConnection(HOST, http, timeout=_PATIENCE)

    @classmethod
    @contextmanager
    def start(cls, data_dir: Path, *more: str) -> Iterator[Self]:
        """`more` are further arguments."""
        log = data_dir.with_suffix(".log")
        with start_process(*serve(data_dir), *more, log=log) as process:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            if words[:2] != ["pingup", "ready"]:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}")
            http, mqtt = (urlsplit(word.partition("=")[2]).port or 0 for word in words[2:])
            yield cls(process.pid, http, mqtt, (data_dir / "admin.token").read_text().strip())

    def call(self, method: str, path: str, body: object = None) -> Any:
        """A REST call as admin on a kept connection; the document that it is answered with."""
        headers = {"Authorization": f"Bearer {self.admin_token}", **_JSON}
        payload = None if body is None else msgspec.json.encode(body)
        self._connection.request(method, path, payload, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path} was answered with {answer.status}: {text.decode()}")
        return msgspec.json.decode(text)

    def register(self, count: int) -> tuple[Device, ...]:
        """Register agents, `agent-0` and so on."""
        return tuple(self._register(f"agent-{number}") for number in range(count))

    def _register(self, agent_id: str) -> Device:
        credentials = self.call("POST", "/api/v1/agents", {"id": agent_id})["credentials"]
        return Device(agent_id, credentials["secret"], credentials["token"])

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
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024 / 1e6
        raise RuntimeError(f"the kernel does not tell {name}")
