"""What stands in deploy/: the unit as systemd judges it, the Dockerfile as far as it goes without Docker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pingup.settings import load
from tests.mosquitto import HOST, find_program

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
LIMIT = 30.0
# systemd's own scale: 0 is shut, 100 is open; it calls 50 "medium".
EXPOSURE_LIMIT = 20


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists on this machine, in place of the one that is installed by hand."""
    shipped = (DEPLOY / "pingup.service").read_text("utf-8")
    command = "ExecStart=/opt/pingup/bin/pingup serve\n"
    assert shipped.count(command) == 1
    copy = tmp_path / "pingup.service"
    copy.write_text(shipped.replace(command, f"ExecStart={sys.executable} serve\n"), "utf-8")
    return copy


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [find_program("systemd-analyze"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)


def test_systemd_accepts_the_unit_without_a_word(unit: Path) -> None:
    verdict = _analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (verdict.returncode, verdict.stderr) == (0, "")


def test_systemd_finds_the_service_well_shut_in(unit: Path) -> None:
    verdict = _analyze("security", "--offline=yes", f"--threshold={EXPOSURE_LIMIT}", str(unit))
    assert verdict.returncode == 0, verdict.stdout


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order: name and argument, continuation lines joined."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    return [(name, argument.strip()) for name, _, argument in (line.partition(" ") for line in lines)]


def _arguments(wanted: str) -> list[str]:
    return [argument for name, argument in _instructions() if name == wanted]


def _copied() -> list[str]:
    """What the Dockerfile takes from the repository."""
    own = [shlex.split(argument) for argument in _arguments("COPY") if not argument.startswith("--from")]
    return [source for *sources, _ in own for source in sources]


def _environment() -> dict[str, str]:
    pairs = [pair.partition("=") for argument in _arguments("ENV") for pair in shlex.split(argument)]
    return {name: value for name, _, value in pairs}


def test_all_that_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert ignored[1] == "*"
    for source in _copied():
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


def test_the_dockerfile_copies_all_that_the_package_is_built_from() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = build["project"]
    packages = build["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"], *packages}
    assert needed == set(_copied())


def test_the_image_runs_the_server_as_a_user_without_rights() -> None:
    names = [name for name, _ in _instructions()]
    assert _arguments("USER") == ["pingup"]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name == "FROM")
    assert json.loads(_arguments("ENTRYPOINT")[0]) + json.loads(_arguments("CMD")[0]) == ["pingup", "serve"]


def test_the_images_settings_are_ones_that_the_server_takes() -> None:
    settings = load(flags={}, environ=_environment())
    assert _arguments("EXPOSE") == [f"{settings.http.port} {settings.mqtt.port}"]
    assert _arguments("VOLUME") == [str(settings.data_dir)]
    assert (settings.http.host, settings.mqtt.host) == ("0.0.0.0", "0.0.0.0")


@pytest.mark.parametrize(("status", "healthy"), [("200 OK", True), ("503 Service Unavailable", False)])
async def test_the_health_check_asks_livez(status: str, healthy: bool) -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, HOST, 0) as server, asyncio.timeout(LIMIT):
        port = server.sockets[0].getsockname()[1]
        assert (await _check_health(port) == 0) is healthy
    assert asked == [b"GET /livez HTTP/1.1\r\n"]


async def _check_health(port: int) -> int:
    """Run the Dockerfile's health check against a port of this machine; its exit code."""
    _, _, command = _arguments("HEALTHCHECK")[0].partition(" CMD ")
    python, *arguments = json.loads(command)
    assert python == "python"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=os.environ | {"PINGUP_HTTP__PORT": str(port)},
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait()
