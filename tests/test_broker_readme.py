"""What broker_config/README.md says: its commands work, and its brokers ask what Pingup answers."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pingup.http import internal
from tests.dynsec.visitors import LIMIT, client, comes_in, until_disconnected
from tests.mosquitto import HOST, SHIPPED, find_program, running_dynsec, running_mosquitto

README = (SHIPPED / "README.md").read_text("utf-8")
EMQX = (SHIPPED / "emqx" / "emqx.conf").read_text("utf-8")
FILES, DYNSEC = SHIPPED / "mosquitto", SHIPPED / "mosquitto-dynsec"


@pytest.mark.mosquitto
async def test_the_commands_for_a_second_administrator_make_one(tmp_path: Path) -> None:
    commands = [line.strip() for line in README.splitlines() if line.startswith("  mosquitto_ctrl ")]
    assert len(commands) == 2
    async with running_dynsec(tmp_path) as dynsec:
        for command in commands:
            filled = command.replace("$ADMIN_PASSWORD", dynsec.password).replace("$MY_PASSWORD", "mine")
            program, *rest = shlex.split(filled)
            where = ["-h", HOST, "-p", str(dynsec.port)]
            await asyncio.to_thread(subprocess.run, [find_program(program), *where, *rest], check=True)
        async with client(dynsec.port, "me", "mine") as me:
            (code,) = await me.subscribe("$CONTROL/dynamic-security/v1/response", qos=1)
            assert not isinstance(code, int)
            assert not code.is_failure


@pytest.mark.mosquitto
async def test_by_the_lines_for_a_deleted_agent_nothing_of_it_stays(tmp_path: Path) -> None:
    (block,) = re.findall(r"(?s)```sh\n(mosquitto_passwd [^\n]*ANY_PASSWORD\"\n.*?)```", README)
    for program in ("mosquitto_passwd", "mosquitto_pub"):
        find_program(program)
    for name in ("acl", "passwords"):
        (tmp_path / name).write_bytes((FILES / name).read_bytes())
    for user in ("AGENT-001", "operator.example-admin", "server"):
        await _sh(f"mosquitto_passwd -b passwords {user} secret", tmp_path)
    async with running_mosquitto(tmp_path, (FILES / "mosquitto.conf").read_text()) as mosquitto:
        port = mosquitto.port
        async with client(port, "AGENT-001", "secret") as agent:
            await agent.publish("pingup/v1/up/AGENT-001/status", "a birth", qos=1, retain=True)
            block = block.replace("$(pidof mosquitto)", str(mosquitto.process.pid))
            block = block.replace("mosquitto_pub ", f"mosquitto_pub -h {HOST} -p {port} ")
            await _sh(f"ANY_PASSWORD=another\n{block}", tmp_path)
            await until_disconnected(agent)
        async with (
            asyncio.timeout(LIMIT),
            client(port, "operator.example-admin", "secret") as admin,
            client(port, "server", "secret") as server,
        ):
            await admin.subscribe("pingup/#", qos=1)
            await server.publish("pingup/v1/sys/status", "all that there is", qos=1)
            message = await anext(aiter(admin.messages))
        assert message.payload == b"all that there is"
        for password in ("secret", "another"):
            assert not await comes_in(port, "AGENT-001", password)


async def _sh(script: str, directory: Path) -> None:
    command = ["bash", "-ec", script]
    await asyncio.to_thread(subprocess.run, command, cwd=directory, check=True, timeout=LIMIT)


@pytest.mark.parametrize("directory", [FILES, DYNSEC], ids=lambda path: path.name)
def test_the_install_command_makes_every_path_absolute(directory: Path) -> None:
    (command,) = [line for line in _install_commands() if _is_for(line, directory)]
    shown = subprocess.run(
        ["bash", "-c", command], cwd=directory, check=True, capture_output=True, text=True, timeout=LIMIT
    ).stdout
    assert shown.count("\n") == (directory / "mosquitto.conf").read_text().count("\n")
    set_to = [line for line in shown.splitlines() if not line.startswith("# ")]
    assert not any(" ./" in line for line in set_to)
    assert "persistence_location /var/lib/mosquitto/" in set_to


def _install_commands() -> list[str]:
    """The `sed` of each installation, without what writes its output into /etc."""
    return [re.split(r"\|\s*sudo", found)[0] for found in re.findall(r"(?ms)^sed -e .*?/dev/null$", README)]


def _is_for(command: str, directory: Path) -> bool:
    return ("/etc/mosquitto/" in command) == (directory == FILES)


def test_emqx_asks_what_pingup_reads_and_allows_nothing_else() -> None:
    bodies = [
        set(re.findall(r"(\w+) = \"\$\{\1\}\"", body))
        for body in re.findall(r"(?s)body \{.*?\n    +\}", EMQX)
    ]
    assert bodies == [{"username", "password", "clientid"}, {"username", "clientid", "topic", "action"}]
    assert "no_match = deny" in EMQX
    assert re.findall(r"type = (\w+)", EMQX) == ["http"]
    assert EMQX.count('authorization = "Bearer INTERNAL_TOKEN"') == 2


def test_every_broker_that_asks_asks_where_pingup_answers() -> None:
    texts = README + EMQX
    asked = set(re.findall(r"/internal/\S*?(?=[\"`\s])", texts))
    assert asked == {route.path for route in internal.routes("")}
    hooks = re.findall(r"hook = (\w+)", README)
    kinds = ("auth_on_register", "auth_on_publish", "auth_on_subscribe")
    assert sorted(hooks) == sorted(f"{kind}{version}" for kind in kinds for version in ("", "_m5"))
