"""The real agent as a process, and a count of how often it has carried each command out."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections import Counter
from pathlib import Path

import aiohttp

from tests.faults.machine import HOST, LIMIT, ROOT, Broken, Server, within
from tests.faults.message import Device

# One line for each time that it runs.
_PROGRAM = """#!/bin/sh
echo "$1" >> '{ran}'
"""
_ENDS = ("completed", "failed", "rejected")
_ORDER_EVERY = 0.1  # seconds


class Obedient:
    """`pingup agent run`, which may execute one program: it notes that it ran."""

    def __init__(self, directory: Path, device: Device, port: int, interval: float) -> None:
        """`interval` is seconds between its samples."""
        self.device = device
        self.home = directory / "agent"
        """Where it keeps its journal and its spool."""
        self._directory = directory
        self._port = port
        self._interval = interval
        self._program = directory / "note.sh"
        self._ran = directory / "ran"
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """Start it. It needs no broker for that."""
        self._ran.touch()
        self._program.write_text(_PROGRAM.format(ran=self._ran))
        self._program.chmod(0o700)
        secret = self._directory / "secret"
        secret.write_text(self.device.secret)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PINGUP_")}
        environ = {
            **clean,
            "PINGUP_AGENT_EXECUTE__PROGRAMS": str(self._program),
            "PINGUP_AGENT_RECONNECT__FIRST": "0.05",
            "PINGUP_AGENT_RECONNECT__LIMIT": "0.5",
            "PINGUP_AGENT_SPOOL__RESEND": "2",
        }
        flags = ["--id", self.device.id, "--url", f"mqtt://{HOST}:{self._port}", "--secret-file", str(secret)]
        flags += ["--data-dir", str(self.home), "--interval", str(self._interval)]
        with (self._directory / "agent.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pingup", "agent", "run", *flags),
                env=environ, stdout=log, stderr=log, cwd=ROOT,
            )  # fmt: skip

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        if self._process is not None and self.process.returncode is None:
            self.thaw()
            await self.kill()

    @property
    def ran(self) -> Counter[str]:
        """How often each command was carried out, by the mark that it was given."""
        return Counter(self._ran.read_text().split())

    async def order(self, server: Server, mark: str) -> str | None:
        """Send it a command that leaves this mark; the command's id, None if the server didn't take it."""
        params = {"program": str(self._program), "args": [mark], "timeout": 20}
        body = {"agentId": self.device.id, "action": "execute", "params": params}
        try:
            answer = await server.call("POST", "/api/v1/commands", body, status=None)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        return str(answer["command"]["commandId"]) if "command" in answer else None


class Orders:
    """Commands given throughout a case."""

    def __init__(self, agent: Obedient, server: Server) -> None:
        self._agent = agent
        self._server = server
        self._marks: dict[str, str] = {}
        """By command id."""

    async def give(self) -> None:
        """Give one after the other until cancelled."""
        number = 0
        while True:
            number += 1
            mark = f"mark-{number}"
            command_id = await self._agent.order(self._server, mark)
            if command_id is not None:
                self._marks[command_id] = mark
            await asyncio.sleep(_ORDER_EVERY)

    async def settle(self) -> None:
        """Give a last one and wait for its end: the way is free again."""
        command_id = await self._agent.order(self._server, "last")
        if command_id is None:
            raise Broken("the server takes no command after the fault")
        self._marks[command_id] = "last"
        async with within(LIMIT, "the last command has not ended"):
            while await self._status(command_id) not in _ENDS:  # noqa: ASYNC110 - REST has no events yet
                await asyncio.sleep(0.02)

    async def check(self) -> None:
        """
        Raises:
            Broken: a command ran twice, or is said to be completed and has not run.
        """
        ran = self._agent.ran
        twice = [mark for mark, times in ran.items() if times > 1]
        if twice:
            raise Broken(f"commands that ran twice: {twice}")
        for command_id, mark in self._marks.items():
            if not ran[mark] and await self._status(command_id) == "completed":
                raise Broken(f"command {command_id} is completed and has not run")

    async def _status(self, command_id: str) -> str:
        answer = await self._server.call("GET", f"/api/v1/commands/{command_id}")
        return str(answer["command"]["status"])
