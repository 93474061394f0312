"""The server itself: health, what no handler foresees, listening and stopping."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import aiohttp
import pytest

from pingup import __version__
from pingup.errors import Unusable
from pingup.http import ndjson
from pingup.services import ingest
from pingup.services.health import Component, Status
from pingup.settings import HttpSettings, Settings
from tests.conftest import ManualClock
from tests.http.house import NDJSON, House, Wire, open_house, shared_server


@pytest.mark.parametrize(
    ("status", "code", "ready"),
    [(Status.HEALTHY, 200, 200), (Status.DEGRADED, 200, 200), (Status.UNHEALTHY, 503, 503)],
)
async def test_health_is_told_to_everybody(house: House, status: Status, code: int, ready: int) -> None:
    house.parts.mqtt = Component(status)
    house.clock.advance(seconds=90)
    answer = await house.call("GET", "/health")
    assert (answer.status, answer.json) == (
        code,
        {
            "status": status.value,
            "version": __version__,
            "uptime": 90.0,
            "components": {"mqtt": {"status": status.value}},
        },
    )
    assert (await house.call("GET", "/readyz")).status == ready
    assert (await house.call("GET", "/livez")).status == 200


@shared_server
async def test_head_answers_like_get_without_a_body(shared: House) -> None:
    answer = await shared.call("HEAD", "/api/v1/agents", shared.read)
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 0


@shared_server
async def test_an_unknown_path_is_a_404_problem(shared: House) -> None:
    for path in ("/", "/api/v1/nothing", "/api/v1/agents/", "/api/v2/agents", "/api/v1/agents/a/b/c"):
        assert (await shared.call("GET", path)).status == 404


@shared_server
async def test_a_method_that_is_not_possible_is_a_405_problem_with_allow(shared: House) -> None:
    answer = await shared.call("PUT", "/api/v1/agents/a1", shared.admin)
    assert (answer.status, answer.headers["Allow"]) == (405, "DELETE, GET, HEAD, PATCH")


@shared_server
async def test_options_names_the_methods_that_are_possible(shared: House) -> None:
    answer = await shared.call("OPTIONS", "/api/v1/metrics")
    assert (answer.status, answer.headers["Allow"], answer.body) == (204, "GET, HEAD, POST", b"")


async def test_a_store_that_cannot_work_is_a_503_with_retry_after(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ingest, ndjson):
        monkeypatch.setattr(module, "PATIENCE", 0.05)
    house.telemetry._database.close()
    read = await house.get("/api/v1/metrics/a1")
    posted = await house.send("/api/v1/metrics", house.sign(house.sample()))
    for answer in (read, posted):
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    lines = await house.send("/api/v1/metrics", house.sign(house.sample(cpu=2)), headers=NDJSON)
    assert lines.json["results"][0]["status"] == 503


async def test_a_bug_is_logged_with_its_traceback_and_answered_without(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(tmp_path, clock) as house:

        async def fail() -> None:
            raise LookupError("the secret inside")

        monkeypatch.setattr(house.services.tokens, "all", fail)
        answer = await house.get("/api/v1/tokens", house.admin)
    assert answer.status == 500
    assert b"secret inside" not in answer.body
    assert "LookupError: the secret inside" in caplog.text


@shared_server
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 65 + b"\r\n",
        b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/v1/agents HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_400_problem_and_no_noise_in_the_log(
    shared: House, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with Wire.open(shared) as wire:
            await wire.send(request_bytes)
            answer = await wire.answer()
            assert await wire.reader.read() == b""
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "aiohttp" not in answer.headers["Server"]
    assert caplog.text == ""


async def test_a_broken_chunk_is_a_400_problem(house: House) -> None:
    head = (
        "POST /api/v1/agents HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"Authorization: Bearer {house.admin}\r\n\r\n"
    )
    async with Wire.open(house) as wire:
        await wire.send(head.encode(), b"zz\r\n")
        assert (await wire.answer()).status == 400


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path, clock: ManualClock) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = Settings(http=HttpSettings(port=port))
        with pytest.raises(Unusable) as caught:
            async with open_house(tmp_path, clock, settings):
                pass
    assert str(caught.value) == (
        f"HTTP: cannot listen on 127.0.0.1:{port}: address already in use; choose another with --http-port"
    )


async def test_stopping_takes_no_more_and_lets_a_request_under_way_finish(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as tasks:
        async with open_house(tmp_path, clock) as house:

            async def slow() -> list[None]:
                entered.set()
                await leave.wait()
                return []

            monkeypatch.setattr(house.services.tokens, "all", slow)
            request = tasks.create_task(_tokens(client, house))
            await entered.wait()
            tasks.create_task(_when_nobody_listens(house.port, leave))
        assert request.done()
    assert request.result() == 200


async def _tokens(client: aiohttp.ClientSession, house: House) -> int:
    headers = {"Authorization": f"Bearer {house.admin}"}
    async with client.get(f"{house.url}/api/v1/tokens", headers=headers) as response:
        return response.status


async def _when_nobody_listens(port: int, then: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                then.set()
                return
            writer.close()
            await asyncio.sleep(0.01)
