"""Telemetry is kept for as long as the settings say, each kind for its own time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pingup.model import Deposit, Fate, Run, Sample, Scan, Span
from pingup.services.ledger import Ledger
from pingup.services.retention import Retention
from pingup.storage.duckdb import DuckDBTelemetry
from tests.conftest import ManualClock
from tests.contract.telemetry_examples import store


async def test_what_is_older_than_its_retention_is_deleted_and_nothing_else(
    tmp_path: Path, clock: ManualClock
) -> None:
    ages = [timedelta(days=days) for days in (1, 6, 8, 29, 31)]
    async with await DuckDBTelemetry.open(tmp_path / "analytics.duckdb") as telemetry:
        await store(
            telemetry,
            [
                record
                for age in ages
                for record in (
                    Sample("A", clock.now() - age, 1.0, None, None, None, "online"),
                    Scan("A", clock.now() - age, 1, ()),
                )
            ],
        )
        week, month = timedelta(days=7), timedelta(days=30)
        await Retention(telemetry, Ledger(), clock, samples=week, scans=month).sweep()
        samples = await telemetry.samples("A", Span())
        scans = await telemetry.scans("A", Span())
    assert [clock.now() - sample.timestamp for sample in samples] == ages[:2]
    assert [clock.now() - scan.timestamp for scan in scans] == ages[:4]


async def test_a_stream_is_forgotten_once_all_that_it_brought_is_deleted(
    tmp_path: Path, clock: ManualClock
) -> None:
    def run(stream: str, age: timedelta) -> Run:
        moment = clock.now() - age
        return Run("A", stream, Fate.STORED, 1, 1, 1, moment, moment, moment)

    week, month = timedelta(days=7), timedelta(days=30)
    async with await DuckDBTelemetry.open(tmp_path / "analytics.duckdb") as telemetry:
        await store(telemetry, [Sample("A", clock.now(), 1.0, None, None, None, "online")])
        runs = [run("old", timedelta(days=31)), run("new", timedelta(days=29))]
        await telemetry.store(Deposit((), runs))
        ledger = Ledger()
        ledger.load(runs)
        await Retention(telemetry, ledger, clock, samples=week, scans=month).sweep()
        assert await telemetry.runs() == runs[1:]
    assert [stream.name for stream in ledger.streams("A")] == ["new"]


async def test_a_clock_that_is_years_ahead_does_not_delete_everything(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with await DuckDBTelemetry.open(tmp_path / "analytics.duckdb") as telemetry:
        await store(telemetry, [Sample("A", clock.now(), 1.0, None, None, None, "online")])
        clock.advance(days=2000)
        week = timedelta(days=7)
        await Retention(telemetry, Ledger(), clock, samples=week, scans=week).sweep()
        assert len(await telemetry.samples("A", Span())) == 1


async def test_there_is_nothing_to_delete_in_an_empty_store(tmp_path: Path, clock: ManualClock) -> None:
    async with await DuckDBTelemetry.open(tmp_path / "analytics.duckdb") as telemetry:
        await Retention(
            telemetry, Ledger(), clock, samples=timedelta(days=1), scans=timedelta(days=1)
        ).sweep()
