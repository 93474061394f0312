"""What the server may change from afar, and what only the device decides."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pingup.agent.settings import LatencyTuning, ScanTuning
from pingup.agent.tuning import BadTuning, Tuner
from pingup.errors import Unusable
from pingup.model import ConfigReport, StatusReport
from pingup.signing import sign
from tests.agent.rig import (
    LIMIT,
    OPEN_BROKER,
    command_body,
    rig,
    running_agent,
    running_server,
    settings_of,
)
from tests.mosquitto import running_mosquitto

mosquitto = pytest.mark.mosquitto


async def _tuner(directory: Path, *, token: str = "token", **flags: Any) -> Tuner:
    tuner = Tuner(settings_of(directory, 1883, **flags), directory / "remote.json", token)
    await tuner.load()
    return tuner


@mosquitto
async def test_a_configuration_is_applied_at_once_and_reported(tmp_path: Path) -> None:
    async with rig(tmp_path, interval=3600) as (server, *_):
        await server.config(1, {"interval": 0.1, "colour": "red"})
        report = await server.config_report(1)
        assert report.applied
        assert report.error is None
        # At an interval of an hour there would be no sample yet; the server learns of the new one.
        await server.sample()
        await server.expect(StatusReport, lambda status: status.online and status.interval == 0.1)


@mosquitto
async def test_a_bad_configuration_is_reported_with_its_error_and_changes_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as (server, *_):
        await server.config(1, {"interval": "often"})
        report = await server.config_report(1)
        assert not report.applied
        assert report.error == "interval: Expected `float`, got `str`"
        await server.config(2, {"interval": 5})
        assert (await server.config_report(2)).applied


@mosquitto
async def test_a_configuration_survives_a_restart_and_older_ones_are_ignored(tmp_path: Path) -> None:
    async with running_mosquitto(tmp_path, OPEN_BROKER) as broker, running_server(broker.port) as server:
        settings = settings_of(tmp_path, broker.port)
        async with running_agent(settings):
            await server.birth()
            await server.config(3, {"interval": 30}, retain=False)
            await server.config_report(3)
        seen = len(server.messages)
        async with running_agent(settings):
            assert (await server.birth(after=seen)).interval == 30
            await server.config(2, {"interval": 20}, retain=False)
            await server.settled()
            assert not any(isinstance(message, ConfigReport) for message in server.messages[seen:])


async def test_an_agent_that_was_registered_anew_takes_version_1_again(tmp_path: Path) -> None:
    await (await _tuner(tmp_path)).apply(7, {"interval": 5})
    assert (await _tuner(tmp_path)).version == 7
    again = await _tuner(tmp_path, token="another token")
    assert (again.version, again.current.interval) == (0, settings_of(tmp_path, 1883).interval)


@mosquitto
async def test_a_retained_configuration_is_taken_up_and_reported_at_every_birth(
    tmp_path: Path,
) -> None:
    async with running_mosquitto(tmp_path, OPEN_BROKER) as broker, running_server(broker.port) as server:
        await server.config(1, {"interval": 30})
        for _ in range(2):
            seen = len(server.messages)
            async with running_agent(settings_of(tmp_path, broker.port)):
                assert (await server.config_report(1, after=seen)).applied


@mosquitto
async def test_a_configuration_that_the_server_did_not_sign_is_ignored(tmp_path: Path) -> None:
    async with rig(tmp_path) as (server, *_):
        body = {"agentId": "edge-1", "version": 9, "config": {}, "updatedAt": "2026-01-01T00:00:00Z"}
        await server.send(sign(msgspec.json.encode(body), "another secret"), config=True)
        await server.send(b"", config=True, retain=True)
        await server.config(9, {}, retain=False, agentId="edge-2")
        await server.config(9, {}, retain=False, timestamp="2026-01-01T00:00:00Z")
        await server.settled()
        assert not any(isinstance(message, ConfigReport) for message in server.messages)


@mosquitto
async def test_update_config_changes_a_part_and_answers_with_the_whole(tmp_path: Path) -> None:
    async with rig(tmp_path, scan__ranges=["127.0.0.0/24"]) as (server, *_):
        status, result = await server.run("update_config", {"interval": 20, "scan": {"ports": [80]}})
        assert status == "completed"
        assert result["config"]["interval"] == 20
        assert result["config"]["scan"]["ports"] == [80]
        assert result["config"]["scan"]["ranges"] == ["127.0.0.0/24"]
        status, result = await server.run("update_config", {"scan": {"ranges": ["10.0.0.0/24"]}})
        assert status == "rejected"
        assert "outside of what this agent is allowed to scan" in result["error"]


@mosquitto
async def test_commands_of_one_client_are_taken_in_their_order(tmp_path: Path) -> None:
    async with rig(tmp_path) as (server, *_):
        commands = [command_body("ping")["commandId"] for _ in range(10)]
        for command_id in commands:
            await server.command("ping", commandId=command_id)
        for command_id in commands:
            await server.end(command_id)
        acknowledged = [report.command_id for report in server.commands if report.status == "acknowledged"]
    assert acknowledged == commands


async def test_what_was_changed_from_afar_survives_until_the_next_configuration(
    tmp_path: Path,
) -> None:
    tuner = await _tuner(tmp_path, interval=10)
    await tuner.apply(1, {"interval": 20, "latency": {"target": "192.0.2.1:80"}, "later": {"x": 1}})
    await tuner.update({"latency": {"target": "192.0.2.2:80"}})
    tuner = await _tuner(tmp_path, interval=10)
    assert tuner.version == 1
    assert tuner.current.interval == 20
    assert tuner.current.latency.target == "192.0.2.2:80"
    # What this version doesn't know, a later one may.
    assert msgspec.json.decode((tmp_path / "remote.json").read_bytes())["config"]["later"] == {"x": 1}
    await tuner.apply(2, {"disk": "/tmp"})
    assert tuner.current.interval == 10
    assert tuner.current.latency.target is None


@pytest.mark.parametrize(
    "config",
    [
        {"interval": 0},
        {"interval": True},
        {"interval": None},
        {"interval": 1e300},
        {"latency": {"target": "no port"}},
        {"latency": {"target": "host:99999"}},
        {"latency": {"method": "carrier pigeon"}},
        {"latency": 5},
        {"scan": {"ports": [0]}},
        {"scan": {"ports": []}},
        {"scan": {"interval": 0}},
        {"scan": {"ranges": ["127.0.0.1/33"]}},
        {"scan": {"ranges": ["0.0.0.0/0"]}},
        {"scan": {"ranges": ["10.0.0.0/24"]}},
    ],
)
async def test_a_bad_value_changes_nothing(tmp_path: Path, config: dict[str, Any]) -> None:
    tuner = await _tuner(tmp_path, scan__within=["127.0.0.0/8"])
    before = tuner.current
    with pytest.raises(BadTuning):
        await tuner.apply(1, config)
    with pytest.raises(BadTuning):
        await tuner.update(config)
    assert tuner.current == before
    assert tuner.version == 0
    assert not (tmp_path / "remote.json").exists()


async def test_allow_lists_cannot_be_changed_from_afar(tmp_path: Path) -> None:
    tuner = await _tuner(tmp_path)
    before = tuner.current
    await tuner.apply(
        1, {"execute": {"programs": ["sh"]}, "scan": {"within": ["0.0.0.0/0"]}, "url": "mqtt://x"}
    )
    assert tuner.current.interval == before.interval
    with pytest.raises(BadTuning, match="outside"):
        await tuner.apply(2, {"scan": {"ranges": ["10.0.0.0/24"], "within": ["10.0.0.0/8"]}})


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"version":"x"}', b'{"version":3,"config":{"interval":-1}}']
)
async def test_a_damaged_file_leaves_the_devices_own_settings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "remote.json").write_bytes(content)
    tuner = await _tuner(tmp_path, interval=7)
    assert tuner.current.interval == 7
    assert tuner.version == 0


async def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "remote.json").mkdir()
    with pytest.raises(Unusable, match=r"cannot read .*remote.json"):
        await _tuner(tmp_path)


async def test_a_change_that_cannot_be_kept_is_not_applied(tmp_path: Path) -> None:
    tuner = Tuner(settings_of(tmp_path, 1883), tmp_path / "missing" / "remote.json", "token")
    with pytest.raises(BadTuning, match="cannot keep it"):
        await tuner.apply(1, {"interval": 5})
    assert tuner.current.interval == 60


async def test_who_waits_for_a_turn_wakes_when_its_settings_change_and_not_for_others(tmp_path: Path) -> None:
    tuner = await _tuner(tmp_path)
    latency = tuner.current.latency
    waiting = asyncio.create_task(tuner.hold(lambda tuning: tuning.latency, latency))
    await tuner.update({"interval": 5})
    assert not waiting.done()
    await tuner.update({"latency": {"target": "192.0.2.1:80"}})
    async with asyncio.timeout(LIMIT):
        await waiting
    assert tuner.current.latency == LatencyTuning("192.0.2.1:80")
    assert tuner.current.scan.ports == ScanTuning().ports
