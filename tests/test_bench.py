"""`pingup bench` as a user calls it, with very little work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.mosquitto import find_mosquitto, find_program

ROOT = Path(__file__).parent.parent


def run(*arguments: str, module: str = "pingup", **environ: str) -> subprocess.CompletedProcess[str]:
    words = ("bench", *arguments) if module == "pingup" else arguments
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=50,
    )


def measured(*arguments: str) -> dict[str, dict[str, Any]]:
    """The lines of a case by name."""
    done = run(*arguments, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    assert case["failed"] is None
    return {line["name"]: line for line in case["measurements"]}


def test_a_load_is_measured_and_its_rows_are_counted() -> None:
    lines = measured("embedded", "--runs", "2")
    assert len(lines["embedded"]["values"]) == 2
    assert lines["embedded"]["median"] > 0
    assert "4,000 samples sent, as many rows in the database" in lines["embedded"]["note"]
    assert lines["embedded: CPU per message"]["unit"] == "µs"


def test_rest_is_measured_in_calls_and_in_lines() -> None:
    lines = measured("rest")
    assert lines["rest: POST, 64 connections"]["median"] > 0
    assert lines["rest: NDJSON, samples"]["median"] > 0
    assert "as many rows in the database" in lines["rest: POST, 64 connections"]["note"]


@pytest.mark.mosquitto
def test_what_comes_through_mosquitto_is_held_against_mosquitto_sub() -> None:
    find_mosquitto()
    find_program("mosquitto_sub")
    lines = measured("ingest")
    ours, theirs = lines["ingest"], lines["ingest: mosquitto_sub"]
    assert lines["ingest / mosquitto_sub"]["values"] == [ours["values"][0] / theirs["values"][0]]
    assert "as many rows in the database" in ours["note"]


@pytest.mark.mosquitto
def test_a_backlog_is_drained_to_the_last_message() -> None:
    find_mosquitto()
    assert "20,001 samples sent, as many rows" in measured("backlog")["backlog"]["note"]


@pytest.mark.mosquitto
def test_a_sample_is_seen_on_its_live_topic_through_both_brokers() -> None:
    find_mosquitto()
    lines = measured("live")
    assert {"live, embedded, p50", "live, Mosquitto, p50"} <= lines.keys()
    assert all(line["median"] > 0 for line in lines.values())


@pytest.mark.mosquitto
def test_queries_are_measured_on_a_history_that_was_filled_in() -> None:
    find_mosquitto()
    lines = measured("history")
    assert "518,400 rows" in lines["history: start"]["note"]
    assert any(name.endswith("30 days by the hour") for name in lines)


def test_a_table_is_printed_with_machine_and_versions() -> None:
    done = run("discovery", "--quick")
    assert done.returncode == 0, done.stderr
    assert "duckdb " in done.stdout
    assert "mosquitto " in done.stdout
    assert "| discovery, 14 scans of 50 hosts |" in done.stdout
    assert done.stderr == ""  # progress is for terminals only


def test_an_unknown_case_is_a_usage_error_that_names_those_there_are() -> None:
    done = run("nonsense")
    assert done.returncode == 2
    assert "no such case: nonsense; there are ingest, " in done.stderr


def _is_server(process: psutil.Process) -> bool:
    try:
        return "serve" in process.cmdline()
    except psutil.NoSuchProcess:
        return False  # it was one of those that are there for a moment only


def test_a_measurement_that_is_ended_leaves_no_server_running() -> None:
    command = [sys.executable, "-m", "pingup", "bench", "memory"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            bench = psutil.Process(process.pid)
            deadline = time.monotonic() + 30
            started: list[psutil.Process] = []
            while not any(map(_is_server, started)):
                started = bench.children()
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.terminate()
            process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert not any(child.is_running() for child in started)


def test_the_cases_can_be_listed() -> None:
    done = run("--list")
    assert done.returncode == 0
    assert "embedded   samples through the embedded broker" in done.stdout


def test_without_mosquitto_a_case_says_which_package_is_missing(tmp_path: Path) -> None:
    done = run("ingest", "--quick", PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "pingup: ingest is skipped: mosquitto" in done.stderr
    assert "is not installed (Debian, Ubuntu: apt-get install mosquitto" in done.stderr


def test_make_bench_has_the_developers_cases_too() -> None:
    done = run("--list", module="tests.benchmarks")
    assert done.returncode == 0
    assert "embedded " in done.stdout
    assert "inserts " in done.stdout
