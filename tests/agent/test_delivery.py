"""From the spool to the server and back: numbers, receipts, repeats, outages, with a real broker between."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pingup.agent import messages
from pingup.agent.run import Agent
from pingup.agent.spool_file import Bounds, Proof, SpoolFile, Stored
from pingup.clock import rfc3339
from pingup.model import TelemetryReport
from pingup.signing import sign
from pingup.topics import Kind
from tests.agent.rig import (
    ID,
    OPEN_BROKER,
    Rig,
    Server,
    now,
    rig,
    running_agent,
    running_server,
    settings_of,
    until,
)
from tests.mosquitto import HOST, running_mosquitto

pytestmark = pytest.mark.mosquitto

QUICK = {"interval": 0.1, "latency.target": f"{HOST}:1"}
A_DAY = 86_400
SAMPLE = messages.Measurement(1.0, 2.0, 3.0, 4.0)


def _spool(directory: Path) -> Path:
    return directory / "agent" / "spool.db"


def _fill(directory: Path, count: int) -> None:
    """Leave a spool as an agent does that was away: a sample every 10 s."""
    begun = now() - timedelta(seconds=10 * count)
    samples = [
        Stored(Kind.METRICS, messages.metrics(ID, begun + timedelta(seconds=10 * number), SAMPLE))
        for number in range(count)
    ]
    file = SpoolFile.open(_spool(directory))
    file.append(samples, Bounds(100_000, 2**28))
    file.close()


def _held(directory: Path) -> tuple[list[int], Proof]:
    file = SpoolFile.open(_spool(directory))
    extent = file.extent
    numbers = [seq for seq in range(extent.first, extent.last + 1) if file.read(seq) is not None]
    file.close()
    return numbers, extent.proof


@asynccontextmanager
async def _rig_of(directory: Path, **flags: Any) -> AsyncIterator[Rig]:
    async with rig(directory, **{"interval": A_DAY, **flags}) as parts:
        yield parts


async def _until_first(server: Server, first: int) -> None:
    """Wait until a message says that this is the lowest number still held."""

    def fits(report: TelemetryReport) -> bool:
        return report.numbering is not None and report.numbering.first == first

    await server.expect(TelemetryReport, fits)


async def test_messages_are_numbered_from_1_and_say_what_is_still_held(tmp_path: Path) -> None:
    async with rig(tmp_path, **QUICK) as (server, *_):
        third = await server.numbered(3)
    assert third.first == 1
    assert len(third.stream) == 16
    assert server.numbers[:3] == [1, 2, 3]


async def test_a_receipt_frees_what_it_covers_and_nothing_else(tmp_path: Path) -> None:
    _fill(tmp_path, 5)
    async with _rig_of(tmp_path) as (server, *_):
        stream = (await server.numbered(5)).stream
        await server.receipt(stream, 3)
        await server.settled()
    assert _held(tmp_path) == ([4, 5], Proof.RECEIPT)


async def test_forged_and_foreign_receipts_free_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(tmp_path, 3)
    async with _rig_of(tmp_path) as (server, *_):
        stream = (await server.numbered(3)).stream
        await server.receipt(stream, 3, signing=lambda body: sign(body, "another secret" * 3))
        await server.receipt(stream, 3, signing=lambda body: body)
        await server.receipt(stream, 3, timestamp=rfc3339(now()))
        await server.receipt(stream, 3, agentId="edge-2")
        await server.receipt(stream, -1)
        await server.receipt("another", 3)
        await server.settled()
    assert _held(tmp_path) == ([1, 2, 3], Proof.UNKNOWN)
    assert caplog.text.count("ignored a receipt") == 6


async def test_a_device_that_was_set_back_to_an_older_copy_numbers_anew_and_frees_nothing_unseen(
    tmp_path: Path,
) -> None:
    _fill(tmp_path, 3)
    async with _rig_of(tmp_path) as (server, *_):
        before = await server.numbered(3)
        await server.receipt(before.stream, 1)
        await server.receipt(before.stream, 17)
        after = await server.expect(
            TelemetryReport,
            lambda sent: sent.numbering is not None and sent.numbering.stream != before.stream,
        )
        assert after.numbering is not None
        await server.receipt(before.stream, 17)
        await server.settled()
    assert (after.numbering.seq, after.numbering.first) == (1, 1)
    assert _held(tmp_path)[0] == [1, 2]


async def test_an_older_receipt_that_is_played_again_does_no_harm(tmp_path: Path) -> None:
    _fill(tmp_path, 3)
    async with _rig_of(tmp_path) as (server, *_):
        stream = (await server.numbered(3)).stream
        for seq in (2, 1, 2, 0):
            await server.receipt(stream, seq)
        await server.settled()
    assert _held(tmp_path)[0] == [3]


async def test_what_has_no_receipt_is_sent_again_and_nothing_that_has_one(tmp_path: Path) -> None:
    _fill(tmp_path, 2)
    async with _rig_of(tmp_path, spool__resend=0.2) as (server, *_):
        await server.receipt((await server.numbered(2)).stream, 1)
        await until(lambda: server.numbers.count(2) == 3)
    assert server.numbers.count(1) == 1
    assert _held(tmp_path)[0] == [2]


async def test_a_server_that_sends_no_receipts_frees_by_the_brokers_acknowledgement(tmp_path: Path) -> None:
    _fill(tmp_path, 2)
    async with rig(tmp_path, **QUICK, spool__resend=0.2) as (server, *_):
        await server.status("online")
        await until(lambda: server.numbers.count(1) >= 2)
        # From then on each is gone once it is acknowledged.
        seen = len(server.messages)
        await server.expect(
            TelemetryReport, lambda sent: sent.numbering is not None and sent.numbering.first > 3, seen
        )
    held, proof = _held(tmp_path)
    assert proof is Proof.PUBACK
    assert not {1, 2, 3} & set(held)


async def test_the_first_receipt_ever_ends_freeing_by_the_brokers_acknowledgement(tmp_path: Path) -> None:
    _fill(tmp_path, 2)
    file = SpoolFile.open(_spool(tmp_path))
    file.remember(Proof.PUBACK)
    file.close()
    async with rig(tmp_path, **QUICK) as (server, *_):
        stream = (await server.numbered(3)).stream
        await server.receipt(stream, 2)
        await server.settled()
        last = server.numbers[-1]
        await server.numbered(last + 2)
    held, proof = _held(tmp_path)
    assert proof is Proof.RECEIPT
    assert last + 1 in held


async def test_nothing_is_repeated_while_the_server_is_away(tmp_path: Path) -> None:
    async with running_mosquitto(tmp_path, OPEN_BROKER) as broker, running_server(broker.port) as server:
        await server.status("offline")
        async with running_agent(settings_of(tmp_path, broker.port, **QUICK, spool__resend=0.3)):
            await server.numbered(10)  # The first one is long overdue.
            assert server.numbers == list(range(1, 11))
            await server.status("online")
            await until(lambda: server.numbers.count(1) == 2)


async def test_after_an_outage_fresh_values_come_at_once_and_the_backlog_oldest_first(tmp_path: Path) -> None:
    _fill(tmp_path, 60)
    async with rig(tmp_path, **QUICK, spool__rate=50) as (server, *_):
        await server.numbered(60)
        numbers = server.numbers
    until_through = numbers[: numbers.index(60) + 1]
    assert [seq for seq in until_through if seq <= 60] == list(range(1, 61))
    assert any(seq > 60 for seq in until_through)


async def test_a_full_spool_drops_the_oldest_and_says_so_in_first(tmp_path: Path) -> None:
    _fill(tmp_path, 10)
    async with rig(tmp_path, **QUICK, spool__max_messages=5) as (server, *_):
        await _until_first(server, 8)
    assert len(_held(tmp_path)[0]) == 5


async def test_samples_arrive_while_the_disk_is_full_and_are_kept_again_once_it_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def is_bare(report: TelemetryReport) -> bool:
        return report.numbering is None

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with rig(tmp_path, **QUICK) as (server, *_):
        await server.numbered(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
        try:
            await server.expect(TelemetryReport, is_bare)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        await server.numbered(max(server.numbers) + 2)
    assert caplog.text.count("can't be written") == 1


async def test_once_leaves_nothing_behind(tmp_path: Path) -> None:
    async with running_mosquitto(tmp_path, OPEN_BROKER) as broker, running_server(broker.port) as server:
        await Agent(settings_of(tmp_path, broker.port)).run_once()
        assert (await server.sample()).numbering is None
    assert not _spool(tmp_path).exists()
