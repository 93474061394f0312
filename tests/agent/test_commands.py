"""Commands to an agent: which are obeyed, how often, and what they can't do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pingup.agent.messages import read_config, read_order
from pingup.clock import rfc3339
from pingup.errors import Rejected
from pingup.model import ConfigReport
from pingup.signing import sign
from pingup.topics import Kind, down_commands, up
from tests.agent.rig import (
    ID,
    OPEN_BROKER,
    by_secret,
    command_body,
    now,
    rig,
    running_agent,
    running_server,
    settings_of,
)
from tests.mosquitto import HOST, running_mosquitto

mosquitto = pytest.mark.mosquitto


@mosquitto
async def test_a_command_is_acknowledged_runs_and_completes(tmp_path: Path) -> None:
    async with rig(tmp_path) as (server, *_):
        command_id = await server.command("ping")
        status, result = await server.end(command_id)
        assert status == "completed"
        assert result["pong"] is True
        assert result["at"].endswith("Z")
        assert server.life(command_id) == ["acknowledged", "running", "completed"]


@mosquitto
async def test_an_unknown_action_is_rejected_with_what_there_is(tmp_path: Path) -> None:
    async with rig(tmp_path) as (server, *_):
        status, result = await server.run("self_destruct")
    assert status == "rejected"
    assert "unknown action 'self_destruct'" in result["error"]
    assert "scan_network" in result["error"]


def _appending(directory: Path) -> dict[str, Any]:
    """Settings that let a command leave a trace each time it runs."""
    program = directory / "append"
    program.write_text(f"#!/bin/sh\necho run >> {directory}/trace\n")
    program.chmod(0o755)
    return {"execute.programs": [str(program)]}


def _trace(directory: Path) -> list[str]:
    path = directory / "trace"
    return path.read_text().split() if path.exists() else []


@mosquitto
async def test_a_command_that_comes_again_and_again_runs_once(tmp_path: Path) -> None:
    flags = _appending(tmp_path)
    body = command_body("execute", {"program": f"{tmp_path}/append"})
    message = by_secret(msgspec.json.encode(body))
    async with running_mosquitto(tmp_path, OPEN_BROKER) as broker, running_server(broker.port) as server:
        async with running_agent(settings_of(tmp_path, broker.port, **flags)):
            await server.birth()
            await server.send(message)
            await server.send(message)
            assert (await server.end(body["commandId"]))[0] == "completed"
            await server.settled()
        seen = len(server.messages)
        async with running_agent(settings_of(tmp_path, broker.port, **flags)):
            await server.birth(after=seen)
            await server.send(message)
            # What was reported once is told again to a server that asks again.
            assert (await server.end(body["commandId"], after=seen))[0] == "completed"
            await server.settled()
    assert _trace(tmp_path) == ["run"]


@mosquitto
async def test_an_end_that_the_server_missed_is_told_at_the_next_birth(tmp_path: Path) -> None:
    flags = _appending(tmp_path)
    program = tmp_path / "append"
    # The command ends only after the connection has: it waits for the file that the test makes.
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"
    program.write_text(f"#!/bin/sh\n{wait}\necho run >> {tmp_path}/trace\n")
    async with rig(tmp_path, **flags) as (server, cable, broker):
        command_id = await server.command("execute", {"argv": [str(program)]})
        await server.report(command_id, "running")
        cable.unplug()
        (tmp_path / "go").touch()
        cable.plug(broker)
        status, _ = await server.end(command_id)
    assert status == "completed"
    assert _trace(tmp_path) == ["run"]


FORGERIES: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "signed with another secret": lambda body: sign(msgspec.json.encode(body), "another secret"),
    "unsigned": msgspec.json.encode,
    "with a signature of nothing": lambda body: msgspec.json.encode(body)[:-1] + b',"signature":""}',
    "another agent's": lambda body: by_secret(msgspec.json.encode({**body, "agentId": "edge-2"})),
    "expired": lambda body: by_secret(
        msgspec.json.encode({**body, "expiresAt": rfc3339(now() - timedelta(seconds=1))})
    ),
    "without an expiry": lambda body: by_secret(
        msgspec.json.encode({name: value for name, value in body.items() if name != "expiresAt"})
    ),
    "with an agent's timestamp": lambda body: by_secret(
        msgspec.json.encode({**body, "timestamp": rfc3339(now())})
    ),
    "changed after it was signed": lambda body: by_secret(msgspec.json.encode(body)).replace(
        b'"ping"', b'"pong"'
    ),
    "too deep": lambda body: by_secret(msgspec.json.encode({**body, "params": _nested(20)})),
    "too large": lambda body: by_secret(msgspec.json.encode({**body, "params": {"x": "x" * 70_000}})),
    "no JSON": lambda body: by_secret(b"{nonsense}"),
    "empty": lambda body: b"",
}


def _nested(depth: int) -> Any:
    return {"x": _nested(depth - 1)} if depth else {}


@mosquitto
async def test_what_the_server_did_not_say_to_this_agent_now_is_never_obeyed(tmp_path: Path) -> None:
    flags = _appending(tmp_path)
    async with rig(tmp_path, **flags) as (server, *_):
        for forge in FORGERIES.values():
            body = command_body("execute", {"program": f"{tmp_path}/append", "args": ["ping"]})
            await server.send(forge(body))
        await server.settled()
        answered = {report.command_id for report in server.commands}
    assert _trace(tmp_path) == []
    assert len(answered) == 1  # the one that settled it


@mosquitto
async def test_a_retained_command_is_not_obeyed(tmp_path: Path) -> None:
    flags = _appending(tmp_path)
    body = command_body("execute", {"program": f"{tmp_path}/append"})
    async with running_mosquitto(tmp_path, OPEN_BROKER) as broker, running_server(broker.port) as server:
        await server.send(by_secret(msgspec.json.encode(body)), retain=True)
        async with running_agent(settings_of(tmp_path, broker.port, **flags)):
            await server.birth()
            await server.settled()
        assert server.life(body["commandId"]) == []
    assert _trace(tmp_path) == []


@mosquitto
async def test_an_agents_own_message_sent_back_to_it_is_not_obeyed(tmp_path: Path) -> None:
    async with rig(tmp_path, interval=0.1) as (server, _, broker), aiomqtt.Client(HOST, broker) as mirror:
        await mirror.subscribe(up(ID, Kind.METRICS), qos=1)
        message = await anext(mirror.messages)
        await mirror.publish(down_commands(ID), message.payload, qos=1)
        await server.send(message.payload, config=True)
        await server.settled()
        assert not any(isinstance(report, ConfigReport) for report in server.messages)
        assert len({report.command_id for report in server.commands}) == 1  # the one that settled it


@mosquitto
async def test_a_ping_is_answered_while_long_commands_run(tmp_path: Path) -> None:
    async with rig(tmp_path, execute__programs=["sleep"]) as (server, *_):
        long = [await server.command("execute", {"argv": ["sleep", "600"]}) for _ in range(3)]
        for command_id in long:
            await server.report(command_id, "running")
        assert (await server.run("ping"))[0] == "completed"


@mosquitto
async def test_commands_beyond_the_queue_are_rejected(tmp_path: Path) -> None:
    async with rig(tmp_path, execute__programs=["sleep"]) as (server, *_):
        commands = [await server.command("execute", {"argv": ["sleep", "600"]}) for _ in range(4)]
        for command_id in commands:
            await server.report(command_id, "running")
        waiting = [await server.command("ping") for _ in range(64)]
        status, result = await server.end(await server.command("ping"))
        assert (status, result) == ("rejected", {"error": "64 commands are waiting already"})
        assert server.life(waiting[-1]) == ["acknowledged"]


@mosquitto
async def test_a_command_that_expires_in_the_queue_does_not_run(tmp_path: Path) -> None:
    flags = _appending(tmp_path)
    flags["execute.programs"].append("sleep")
    async with rig(tmp_path, **flags) as (server, *_):
        for _ in range(4):
            await server.report(await server.command("execute", {"argv": ["sleep", "1"]}), "running")
        soon = rfc3339(now() + timedelta(seconds=0.5))
        late = await server.command("execute", {"program": f"{tmp_path}/append"}, expiresAt=soon)
        assert await server.end(late) == ("rejected", {"error": "expired before its turn came"})
    assert _trace(tmp_path) == []


# --- actions -----------------------------------------------------------------------------------------


@mosquitto
async def test_execute_is_off_unless_configured(tmp_path: Path) -> None:
    async with rig(tmp_path) as (server, *_):
        status, result = await server.run("execute", {"argv": ["/bin/true"]})
    assert (status, result) == ("rejected", {"error": "this agent is not allowed to execute '/bin/true'"})


@mosquitto
async def test_execute_answers_with_output_and_exit_code(tmp_path: Path) -> None:
    async with rig(tmp_path, execute__programs=["echo", "/bin/false"]) as (server, *_):
        status, result = await server.run("execute", {"program": "echo", "args": ["$HOME; `id` && *"]})
        assert status == "completed"
        # No shell has looked at it.
        assert result.pop("duration") >= 0
        assert result == {"exitCode": 0, "stdout": "$HOME; `id` && *\n", "stderr": ""}
        status, result = await server.run("execute", {"argv": ["/bin/false"]})
        assert (status, result["exitCode"]) == ("failed", 1)


BAD_PARAMS: list[dict[str, Any]] = [
    {},
    {"argv": []},
    {"argv": "echo"},
    {"argv": ["echo", 1]},
    {"argv": ["echo", "a\0b"]},
    {"argv": ["echo"], "program": "echo"},
    {"argv": ["/bin/../bin/echo"]},
    {"program": "echo; id"},
    {"program": "echo", "timeout": -1},
]


@mosquitto
async def test_bad_params_of_execute_are_rejected(tmp_path: Path) -> None:
    async with rig(tmp_path, execute__programs=["echo"]) as (server, *_):
        for params in BAD_PARAMS:
            status, result = await server.run("execute", params)
            assert status == "rejected", params
            assert result["error"]


@mosquitto
async def test_a_program_that_is_not_there_has_failed(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    async with rig(tmp_path, execute__programs=[missing]) as (server, *_):
        status, result = await server.run("execute", {"argv": [missing]})
    assert status == "failed"
    assert "No such file" in result["error"]


@mosquitto
async def test_a_result_always_fits_into_a_message(tmp_path: Path) -> None:
    async with rig(tmp_path, execute__programs=["head"]) as (server, *_):
        # Each of these bytes is written with six characters in JSON.
        status, result = await server.run("execute", {"argv": ["head", "-c", "100000", "/dev/zero"]})
    assert status == "completed"
    assert result["truncated"]
    assert len(result["stdout"]) > 1000


@mosquitto
async def test_only_services_on_the_list_are_restarted(tmp_path: Path) -> None:
    flags = {"services.allowed": ["web"], "services.command": ["echo", "restart"]}
    async with rig(tmp_path, **flags) as (server, *_):
        status, result = await server.run("restart_service", {"service": "web"})
        assert (status, result["stdout"]) == ("completed", "restart web\n")
        status, result = await server.run("restart_service", {"service": "database"})
        assert (status, result) == ("rejected", {"error": "this agent is not allowed to restart 'database'"})
        assert (await server.run("restart_service"))[0] == "rejected"


@mosquitto
async def test_a_service_that_does_not_restart_has_failed(tmp_path: Path) -> None:
    flags = {"services.allowed": ["web"], "services.command": ["ls", "--no-such-option"]}
    async with rig(tmp_path, **flags) as (server, *_):
        status, result = await server.run("restart_service", {"service": "web"})
    assert status == "failed"
    assert result["exitCode"] == 2
    assert "no-such-option" in result["stderr"]


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_whatever_make_the_reader_fall_over(payload: bytes) -> None:
    for read in (read_order, read_config):
        with pytest.raises(Rejected):
            read(ID, payload)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["agentId", "commandId", "action", "params", "issuedAt", "expiresAt", "timestamp"]),
        st.one_of(
            st.none(),
            st.text(),
            st.integers(),
            st.floats(),
            st.just(ID),
            st.dictionaries(st.text(), st.text()),
        ),
    )
)
def test_no_object_whatever_makes_the_reader_fall_over(members: dict[str, Any]) -> None:
    try:
        read_order(ID, msgspec.json.encode(members))
    except Rejected:
        return
