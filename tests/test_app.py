"""The server as a whole: how it stops when a store is down, and for whose eyes its files are."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from pingup import app
from pingup.brokers.embedded import Embedded
from pingup.cli.exits import one_line_errors
from pingup.errors import Unavailable
from pingup.services.agents import Registration
from pingup.services.keyring import Keyring
from pingup.settings import HttpSettings, MqttSettings, Settings
from tests.conftest import ManualClock


async def test_a_stop_while_the_registry_is_down_is_an_end_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pingup.storage.sqlite.database.BUSY_TIMEOUT", 0.01)
    settings = Settings(data_dir=tmp_path, http=HttpSettings(port=0), mqtt=MqttSettings(port=0))
    async with AsyncExitStack() as stack:
        pingup = await stack.enter_async_context(app.serve(settings))
        await pingup.services.agents.register(Registration(id="A", metadata={}, tags=()))
        somebody_else = sqlite3.connect(tmp_path / "pingup.db", isolation_level=None)
        with closing(somebody_else):
            await pingup.services.agents.heartbeat("A")
            somebody_else.execute("BEGIN IMMEDIATE")
            await stack.aclose()
    assert "is not written: the registry cannot work now" in caplog.text


def test_a_store_that_is_down_at_the_start_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise Unavailable("the registry cannot work now: disk I/O error")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "pingup: the registry cannot work now: disk I/O error\n"


async def test_no_file_is_for_others_eyes_the_agents_neither(tmp_path: Path) -> None:
    secret, home = tmp_path / "secret", tmp_path / "home"
    secret.write_text("s" * 43)
    device = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pingup", "agent", "run", "--id", "A", "--url", "mqtt://127.0.0.1:1"),
        *("--secret-file", str(secret), "--data-dir", str(home)),
        umask=0o022,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        assert device.stderr is not None
        # It keeps its journal open before it connects.
        assert b"no connection" in await device.stderr.readline()
        modes = {path.name: path.stat().st_mode & 0o777 for path in (home, *home.iterdir())}
        device.terminate()
        await device.communicate()
    assert modes["home"] == 0o700
    assert modes["journal.db"] == 0o600
    assert not any(mode & 0o077 for mode in modes.values())


def test_the_url_of_a_broker_on_ipv6_is_one_that_clients_understand(clock: ManualClock) -> None:
    broker = Embedded(host="::1", port=1883, keyring=Keyring(clock), clock=clock)
    assert broker.url == "mqtt://[::1]:1883"
