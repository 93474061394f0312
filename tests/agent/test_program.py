"""`pingup agent run` as a program: how it starts, what it says, how it ends, and that it is light."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pingup.agent.spool_file import SpoolFile
from pingup.model import StatusReport
from tests.agent.rig import ID, LIMIT, OPEN_BROKER, SECRET, counting, running_server, two_more, until
from tests.mosquitto import HOST, LISTENER, free_port, running_mosquitto

COMMAND = (sys.executable, "-m", "pingup", "agent", "run")


def _arguments(directory: Path, port: int, *more: str) -> list[str]:
    secret = directory / "secret"
    secret.write_text(SECRET + "\n")
    config = directory / "agent.toml"
    if not config.exists():
        config.write_text("")
    return [
        *COMMAND,
        *("--id", ID, "--url", f"mqtt://{HOST}:{port}", "--secret-file", str(secret)),
        *("--data-dir", str(directory / "agent"), "--config", str(config)),
        *more,
    ]


@asynccontextmanager
async def _running(directory: Path, port: int, *more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    with (directory / "stderr").open("ab") as stderr:
        program = await asyncio.create_subprocess_exec(*_arguments(directory, port, *more), stderr=stderr)
    try:
        yield program
    finally:
        if program.returncode is None:
            program.kill()
        await program.wait()


def _result(arguments: list[str], **environ: str) -> tuple[int, str]:
    ended = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environ},
    )
    return ended.returncode, ended.stderr


@pytest.mark.mosquitto
@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly_with_an_offline_message(tmp_path: Path, name: signal.Signals) -> None:
    async with (
        running_mosquitto(tmp_path, OPEN_BROKER) as broker,
        running_server(broker.port) as server,
        _running(tmp_path, broker.port, "--interval", "0.1") as program,
    ):
        birth = await server.birth()
        await server.sample()
        program.send_signal(name)
        farewell = await server.expect(StatusReport, lambda status: not status.online)
        async with asyncio.timeout(LIMIT):
            assert await program.wait() == 0
    assert farewell.session == birth.session
    assert farewell.sent_at > birth.sent_at  # said by itself, not the will
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert len(lines) == 1
    assert f"connected to {HOST}:{broker.port} as {ID}" in lines[0]


@pytest.mark.mosquitto
async def test_what_kill_9_interrupted_is_not_run_again_and_reported_as_failed(tmp_path: Path) -> None:
    append = tmp_path / "append"
    append.write_text(f"#!/bin/sh\necho run >> {tmp_path}/trace\n")
    append.chmod(0o755)
    (tmp_path / "agent.toml").write_text(f'[execute]\nprograms = ["sleep", "{append}"]\ntimeout = 600\n')
    async with running_mosquitto(tmp_path, OPEN_BROKER) as broker, running_server(broker.port) as server:
        async with _running(tmp_path, broker.port) as program:
            await server.birth()
            running = [await server.command("execute", {"argv": ["sleep", "5"]}) for _ in range(4)]
            for command_id in running:
                await server.report(command_id, "running")
            # All hands are busy, so this one is written down and has not begun.
            waiting = await server.command("execute", {"argv": [str(append)]})
            await server.report(waiting, "acknowledged")
            program.kill()
            await server.expect(StatusReport, lambda status: not status.online)
        seen = len(server.messages)
        async with _running(tmp_path, broker.port):
            for command_id in (*running, waiting):
                assert await server.end(command_id, after=seen) == ("failed", {"error": "interrupted"})
            await server.command("execute", {"argv": [str(append)]}, commandId=waiting)
            await server.settled()
    assert not (tmp_path / "trace").exists()


@pytest.mark.mosquitto
async def test_a_backlog_survives_kill_9_and_arrives_whole_after_the_restart(tmp_path: Path) -> None:
    async with counting() as (target, measured):
        options = ("--interval", "0.1", "--latency-target", target)
        async with _running(tmp_path, free_port(), *options) as program:
            for _ in range(3):
                await two_more(measured)
            program.kill()
    file = SpoolFile.open(tmp_path / "agent" / "spool.db")
    last = file.extent.last
    file.close()
    assert last >= 5  # The sixth may not have been through.
    async with (
        running_mosquitto(tmp_path, OPEN_BROKER) as broker,
        running_server(broker.port) as server,
        _running(tmp_path, broker.port, "--interval", "60"),
    ):
        await server.numbered(last)
    assert server.numbers[:last] == list(range(1, last + 1))


@pytest.mark.mosquitto
async def test_the_wrong_secret_ends_it_with_4(tmp_path: Path) -> None:
    closed = f"# for tests\n{LISTENER}\nallow_anonymous false\nlog_dest stderr\n"
    async with running_mosquitto(tmp_path, closed) as broker:
        code, stderr = await asyncio.to_thread(_result, _arguments(tmp_path, broker.port))
    assert (code, stderr) == (4, "pingup: the broker does not let 'edge-1' in: wrong id or secret\n")


def test_once_ends_with_5_where_nobody_listens(tmp_path: Path) -> None:
    port = free_port()
    code, stderr = _result(_arguments(tmp_path, port, "--once"))
    assert code == 5
    assert stderr.startswith(f"pingup: no connection to {HOST}:{port}: ")
    assert stderr.count("\n") == 1


@pytest.mark.mosquitto
async def test_once_sends_a_sample_and_ends(tmp_path: Path) -> None:
    async with running_mosquitto(tmp_path, OPEN_BROKER) as broker, running_server(broker.port) as server:
        code, _ = await asyncio.to_thread(_result, _arguments(tmp_path, broker.port, "--once"))
        await server.sample()
    assert code == 0


async def test_a_signal_ends_it_where_nobody_listens(tmp_path: Path) -> None:
    async with _running(tmp_path, free_port()) as program:
        await until(lambda: "next attempt in" in (tmp_path / "stderr").read_text())
        program.terminate()
        async with asyncio.timeout(LIMIT):
            assert await program.wait() == 0


A = ("--id", "a", "--url", "mqtt://x")
TLS = ("--id", "a", "--url", "mqtts://x", "--ca-file", "/no/such")


@pytest.mark.parametrize(
    ("arguments", "environ", "line"),
    [
        ((), {}, "bad setting id: '' can't name an agent; give the id that it is registered under"),
        (("--id", "a/b"), {}, "bad setting id: 'a/b' can't name an agent"),
        (("--id", "a"), {}, "bad setting url: '' is no address like mqtt://host:1883"),
        (("--id", "a", "--url", "http://x"), {}, "bad setting url: 'http://x' is no address"),
        (A, {}, "an agent needs either its secret (--secret-file, PINGUP_AGENT_SECRET)"),
        ((*A, "--secret-file", "/no/such"), {}, "cannot read the secret file /no/such"),
        ((*A, "--interval", "0"), {}, "bad setting interval: Expected `float` >= 0.1"),
        ((*A, "--scan-range", "x"), {}, "bad setting scan.ranges: 'x' does not appear to be"),
        (("--config", "/no/such"), {}, "cannot read the configuration file /no/such"),
        ((), {"PINGUP_AGENT_COLOUR": "red"}, "bad setting Object contains unknown field `colour`"),
        (TLS, {"PINGUP_AGENT_SECRET": "s"}, "cannot use the certificates in /no/such"),
    ],
)
def test_a_bad_setting_is_one_line_and_2(arguments: tuple[str], environ: dict[str, str], line: str) -> None:
    code, stderr = _result([*COMMAND, *arguments], **environ)
    assert stderr.startswith(f"pingup: {line}")
    assert stderr.count("\n") == 1
    assert code == 2


def test_no_secret_is_ever_a_flag() -> None:
    help_text = subprocess.run(
        [*COMMAND, "--help"], capture_output=True, text=True, check=True, timeout=LIMIT
    ).stdout
    assert "--secret-file" in help_text
    assert "--secret " not in help_text
    assert "--seed " not in help_text


def test_the_agent_loads_none_of_the_servers_packages() -> None:
    code = (
        "import sys, pingup.agent.run, pingup.cli.agent\n"
        "server = {'aiohttp', 'amqtt', 'mqtt5', 'duckdb', 'aiosqlite', 'prometheus_client'}\n"
        "print(*server & sys.modules.keys())"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LIMIT
    )
    assert loaded.stdout.strip() == ""
