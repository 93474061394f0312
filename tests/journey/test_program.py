"""The program as an operator meets it: how it starts, stops, and says what is wrong in one line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.journey.program import LIMIT, MOSQUITTO, broker_for, run, serving, start
from tests.mosquitto import find_program

FREE = ("--http-port", "0", "--mqtt-port", "0")
TOKEN = "environment-token-of-at-least-32-characters"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_first_start_makes_keys_and_shows_the_admin_token_once(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    async with serving(directory) as server:
        token = server.admin_token
        assert (await server.call("GET", "/health"))["status"] == "healthy"
        assert len((await server.call("GET", "/api/v1/tokens"))["tokens"]) == 1
        ended = await server.stop()
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.count(token) == 1
    for name in ("master.key", "admin.token", "pingup.db", "analytics.duckdb"):
        assert mode(directory / name) == 0o600, name
    async with serving(directory) as server:
        assert server.admin_token == token
        assert token not in (await server.stop()).err


async def test_a_revoked_first_token_does_not_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path, environ={"PINGUP_ADMIN_TOKEN": TOKEN}) as server:
        (made,) = (await server.call("GET", "/api/v1/tokens"))["tokens"]
        await server.call("DELETE", f"/api/v1/tokens/{made['id']}", token=TOKEN)
        await server.stop()
    async with serving(tmp_path, environ={"PINGUP_ADMIN_TOKEN": TOKEN}) as server:
        await server.call("GET", "/api/v1/tokens", status=401)
        assert (await server.call("GET", "/api/v1/tokens", token=TOKEN))["tokens"] == []


async def test_the_environments_admin_token_counts_while_it_is_set(tmp_path: Path) -> None:
    async with serving(tmp_path, environ={"PINGUP_ADMIN_TOKEN": TOKEN}) as server:
        await server.call("GET", "/api/v1/agents", token=TOKEN)
        await server.stop()
    async with serving(tmp_path) as server:
        await server.call("GET", "/api/v1/agents", token=TOKEN, status=401)


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_server_cleanly(tmp_path: Path, name: signal.Signals) -> None:
    async with serving(tmp_path) as server:
        server.process.send_signal(name)
        async with asyncio.timeout(LIMIT):
            _, err = await server.process.communicate()
        assert server.process.returncode == 0
        assert b"Traceback" not in err


@pytest.mark.parametrize(("flag", "what"), [("--http-port", "HTTP"), ("--mqtt-port", "MQTT")])
async def test_a_port_in_use_is_one_line(tmp_path: Path, flag: str, what: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = await run("serve", "--data-dir", str(tmp_path), *FREE, flag, port, "--log-level", "error")
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert what in ended.err
    assert port in ended.err
    assert "in use" in ended.err


@pytest.mark.parametrize(
    ("args", "environ", "code", "words"),
    [
        (["--http-port", "99999"], {}, 2, "http.port"),
        (["--http-port", "web"], {}, 2, "http.port"),
        (["--log-level", "loud"], {}, 2, "log.level"),
        ([], {"PINGUP_HTTP__PORT": "web"}, 2, "http.port"),
        ([], {"PINGUP_ADMIN_TOKEN": "short"}, 2, "PINGUP_ADMIN_TOKEN"),
        (["--config", "/nonexistent.toml"], {}, 2, "/nonexistent.toml"),
        (["--data-dir", "/proc/nowhere"], {}, 1, "/proc/nowhere"),
    ],
)
async def test_a_bad_setting_is_one_line(
    tmp_path: Path, args: list[str], environ: dict[str, str], code: int, words: str
) -> None:
    ended = await run("serve", "--data-dir", str(tmp_path), *FREE, *args, environ=environ)
    assert (ended.code, ended.out, ended.err.count("\n")) == (code, "", 1)
    assert words in ended.err


async def test_a_flag_that_there_is_not_is_a_usage_error() -> None:
    ended = await run("serve", "--nonsense")
    assert ended.code == 2
    assert "Traceback" not in ended.err


async def damaged_start(directory: Path) -> str:
    ended = await run("serve", "--data-dir", str(directory), *FREE)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1), ended.err
    return ended.err


async def test_a_wrong_missing_or_open_master_key_is_one_line(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.stop()
    key = tmp_path / "master.key"
    right = key.read_text()
    key.chmod(0o644)
    assert "0644" in await damaged_start(tmp_path)
    key.chmod(0o600)
    key.write_text("nonsense")
    assert "damaged" in await damaged_start(tmp_path)
    key.write_text("A" * 43 + "=\n")
    assert "master key" in await damaged_start(tmp_path)
    key.unlink()
    assert "missing" in await damaged_start(tmp_path)
    key.write_text(right)
    key.chmod(0o600)
    async with serving(tmp_path) as server:
        await server.call("GET", "/api/v1/agents")


async def test_a_second_server_on_the_same_data_is_one_line(tmp_path: Path) -> None:
    async with serving(tmp_path):
        assert "analytics.duckdb" in await damaged_start(tmp_path)


async def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.stop()
    (tmp_path / "pingup.db").write_bytes(b"nonsense" * 1000)
    assert "pingup.db" in await damaged_start(tmp_path)


async def test_migrate_says_what_it_did(tmp_path: Path) -> None:
    first = await run("migrate", "--data-dir", str(tmp_path))
    assert first.code == 0
    assert first.out.count("applied") >= 2
    again = await run("migrate", "--data-dir", str(tmp_path))
    assert (again.code, again.out) == (0, "nothing to do\n")
    async with serving(tmp_path) as server:
        await server.call("GET", "/api/v1/agents")


@pytest.mark.parametrize("module", ["_duckdb", "aiohttp", "amqtt"])
async def test_without_the_servers_packages_serve_names_the_extra(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{module}'\", name='{module}')"
    )
    ended = await run(
        "serve",
        "--data-dir",
        str(tmp_path / "data"),
        *FREE,
        environ={"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"},
    )
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert f"the package {module.lstrip('_')}: pip install 'pingup[server]'" in ended.err


async def test_help_lists_the_commands_without_loading_them() -> None:
    ended = await run("--help", environ={"PYTHONPROFILEIMPORTTIME": "1"})
    assert ended.code == 0
    for word in ("serve", "demo", "agent", "migrate"):
        assert word in ended.out
    for package in ("_duckdb", "duckdb", "aiohttp", "amqtt", "aiomqtt"):
        assert f" {package}\n" not in ended.err


async def read_until(process: asyncio.subprocess.Process, pattern: str) -> str:
    """What a program says until a pattern is in it."""
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(LIMIT):
        while not re.search(pattern, text):
            line = await process.stdout.readline()
            assert line, f"the program has ended: {text}"
            text += line.decode()
    return text


async def test_the_demo_shows_live_values_and_its_lines_can_be_copied(tmp_path: Path) -> None:
    curl, watch = find_program("curl"), find_program("mosquitto_sub")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = await start("demo", "--http-port", port, "--mqtt-port", "0")
        try:
            text = await read_until(process, r"demo-gateway +cpu")
            lines = [
                shlex.split(line)
                for line in text.splitlines()
                if "  curl " in line or "mosquitto_sub " in line
            ]
            assert len(lines) == 5
            answers = []
            for line in lines[:4]:
                done = await asyncio.create_subprocess_exec(curl, *line[1:], stdout=asyncio.subprocess.PIPE)
                answers.append((await done.communicate())[0].decode())
            assert "demo-gateway" in answers[0]
            assert '"hosts":[{"ip":"127.0.0.1"' in answers[1]
            assert '"status":"pending"' in answers[2]
            assert '"action":"ping"' in answers[3]
            done = await asyncio.create_subprocess_exec(
                watch, *lines[4][1:], "-C", "3", "-W", "10", stdout=asyncio.subprocess.PIPE
            )
            assert "pingup/v1/live/demo-" in (await done.communicate())[0].decode()
        finally:
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(LIMIT):
                _, err = await process.communicate()
    assert process.returncode == 0
    assert f"port {port} is in use" in err.decode()
    assert "Traceback" not in err.decode()


@pytest.mark.mosquitto
async def test_the_demo_shows_the_same_over_a_broker_elsewhere(tmp_path: Path) -> None:
    watch = find_program("mosquitto_sub")
    async with broker_for(tmp_path / "demo", MOSQUITTO) as settings:
        url = settings.pop("PINGUP_MQTT__URL")
        process = await start("demo", "--http-port", "0", "--mqtt-url", url, environ=settings)
        try:
            text = await read_until(process, r"demo-gateway +cpu")
            (line,) = (line for line in text.splitlines() if "mosquitto_sub " in line)
            done = await asyncio.create_subprocess_exec(
                watch, *shlex.split(line)[1:], "-C", "3", "-W", "10", stdout=asyncio.subprocess.PIPE
            )
            assert "pingup/v1/live/demo-" in (await done.communicate())[0].decode()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            async with asyncio.timeout(LIMIT):
                _, err = await process.communicate()
    assert (process.returncode, err.decode().count("Traceback")) == (0, 0), err.decode()


async def test_the_demo_says_what_its_agents_lack_at_a_broker_elsewhere() -> None:
    ended = await run("demo", *FREE, "--mqtt-url", "mqtt://server:secret@127.0.0.1:1")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "PINGUP_MQTT__CONTROL_URL" in ended.err
    assert "secret" not in ended.err


async def test_the_demo_ends_by_itself_after_its_duration() -> None:
    ended = await run("demo", "--duration", "1", *FREE)
    assert ended.code == 0
    assert "pingup ready" in ended.out
    assert "Traceback" not in ended.err
