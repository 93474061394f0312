"""What the README tells a newcomer to type, typed."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from tests.journey.conftest import OVER_BOTH
from tests.journey.program import LIMIT, Device, Running
from tests.mosquitto import find_program

ROOT = Path(__file__).parents[2]


def shell_block(after: str, containing: str) -> str:
    """The first shell block of the README after a heading that contains a text."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text[text.index(after) :], re.DOTALL)
    return next(str(block) for block in blocks if containing in block)


async def sh(script: str, directory: Path) -> str:
    """Run a script as the reader's shell would, in a directory."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", script),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def here(script: str, server: Running) -> str:
    """The script for this server's ports in place of the usual ones."""
    return (
        script.replace("http://127.0.0.1:8787", server.url)
        .replace("-h 127.0.0.1", f"-h 127.0.0.1 -p {server.mqtt_port}")
        .replace("pingup-data", str(server.directory))
    )


@OVER_BOTH
async def test_a_device_in_five_lines_of_shell(server: Running, tmp_path: Path) -> None:
    for program in ("openssl", "mosquitto_pub", "curl"):
        find_program(program)
    answer = await sh(here(shell_block("Connect your own device", '"id":"my-device"'), server), tmp_path)
    found = re.search(r'"secret":"([^"]+)"', answer), re.search(r'"token":"([^"]+)"', answer)
    assert found[0] is not None
    assert found[1] is not None
    device = Device("my-device", found[0][1], found[1][1], server=server)
    script = shell_block("Connect your own device", "mosquitto_pub")
    assert len(script.strip().splitlines()) == 5
    script = script.replace("SECRET=... TOKEN=...", f"SECRET={device.secret} TOKEN={device.token}")
    await sh(here(script, server), tmp_path)
    (sample,) = await device.history(1)
    assert (sample["cpu"], sample["temperature"]) == (12.5, 21)


async def test_a_command_by_the_readmes_lines(server: Running, tmp_path: Path) -> None:
    find_program("curl")
    await server.register("my-device")
    script = here(shell_block("Send it a command", "api/v1/commands"), server)
    answer = await sh(script, tmp_path)
    assert answer.count('"action":"ping"') == 2


def test_every_document_that_the_readme_links_is_there() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / link).exists(), link


async def test_the_readmes_agent_line_starts_an_agent(server: Running, tmp_path: Path) -> None:
    device = await server.register("my-device")
    script = shell_block("Connect your own device", "pingup agent run")
    script = script.replace("pingup agent", f"exec {sys.executable} -m pingup agent").replace(
        "127.0.0.1:1883", f"127.0.0.1:{server.mqtt_port}"
    )
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", f"SECRET={device.secret}\n{script}"),
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LIMIT), await server.watcher() as watching:
            await watching.subscribe("pingup/v1/live/my-device/metrics")
            await anext(watching.messages)
    finally:
        process.terminate()
        await process.communicate()
    assert (await server.call("GET", f"/api/v1/metrics/{device.id}"))["metrics"]
