"""Programs that are run for the server: their limits, with real processes."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from pingup.agent.execute import ENVIRONMENT, run_program
from tests.agent.rig import LIMIT, until


def _exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def _gone(pid: int) -> None:
    await until(lambda: not _exists(pid))


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _script(directory: Path, text: str) -> str:
    path = directory / "script"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_time_over_kills_the_program_and_its_children(tmp_path: Path) -> None:
    script = _script(tmp_path, "sleep 600 & echo $!; echo $$; wait")
    run = await run_program([script], timeout=0.5, max_output=1000)
    child, program = map(int, run.stdout.split())
    assert run.error == "timed out after 0.5 s and was killed"
    assert run.exit_code == -9
    await _gone(program)
    await _gone(child)


async def test_a_cancelled_run_leaves_nothing_behind(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = _script(tmp_path, f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait")
    running = asyncio.create_task(run_program([script], timeout=600, max_output=1000))
    await until(pids.exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for pid in pids.read_text().split():
        await _gone(int(pid))


async def test_a_run_that_is_cancelled_while_it_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = _script(tmp_path, f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait")
    running = asyncio.create_task(run_program([script], timeout=600, max_output=1000))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # The program is under way before the event loop has come to know of it.
    deadline = time.monotonic() + LIMIT
    while not pids.exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # noqa: ASYNC251
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for pid in pids.read_text().split():
        await _gone(int(pid))


async def test_output_is_kept_up_to_the_limit_and_the_program_ends_by_itself() -> None:
    run = await run_program(["head", "-c", "5000000", "/dev/zero"], timeout=LIMIT, max_output=100)
    assert run.stdout == "\0" * 100
    assert run.truncated
    assert run.exit_code == 0


async def test_output_of_exactly_the_limit_is_not_called_truncated() -> None:
    run = await run_program(["printf", "12345"], timeout=LIMIT, max_output=5)
    assert (run.stdout, run.truncated) == ("12345", False)


async def test_both_streams_are_kept_apart_and_need_not_be_text(tmp_path: Path) -> None:
    script = _script(tmp_path, r"printf 'out\377'; echo err >&2; exit 3")
    run = await run_program([script], timeout=LIMIT, max_output=1000)
    assert (run.stdout, run.stderr, run.exit_code) == ("out\ufffd", "err\n", 3)


@pytest.mark.parametrize(
    "text", ["$(id)", "`id`", "a; id", "a && id", "> /tmp/x", "*", "$HOME", "a\nb", "'\""]
)
async def test_no_shell_looks_at_the_arguments(text: str) -> None:
    run = await run_program(["printf", "%s", text], timeout=LIMIT, max_output=1000)
    assert run.stdout == text


async def test_the_environment_is_clean_and_the_input_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINGUP_AGENT_SECRET", "a secret")
    run = await run_program(["env"], timeout=LIMIT, max_output=10_000)
    assert dict(line.split("=", 1) for line in run.stdout.splitlines()) == ENVIRONMENT
    assert (await run_program(["cat"], timeout=LIMIT, max_output=10)).exit_code == 0
    assert (await run_program(["pwd"], timeout=LIMIT, max_output=10)).stdout == "/\n"


async def test_what_a_program_leaves_in_the_background_is_left_alone(tmp_path: Path) -> None:
    script = _script(tmp_path, "sleep 600 & echo $!")
    run = await run_program([script], timeout=LIMIT, max_output=1000)
    assert run.error is None
    assert run.exit_code == 0
    child = int(run.stdout)
    assert _exists(child)
    os.kill(child, 9)


async def test_runs_leak_no_file_descriptors(tmp_path: Path) -> None:
    script = _script(tmp_path, "sleep 600 & wait")
    await run_program(["true"], timeout=LIMIT, max_output=10)
    before = _open_files()
    for _ in range(3):
        await run_program([script], timeout=0.05, max_output=10)
        await run_program(["true"], timeout=LIMIT, max_output=10)
    assert _open_files() == before
