"""Running a program for the server: no shell, a clean environment, a limit to its time and its output."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_STDOUT, _STDERR = 1, 2
# Seconds that are given to what a program wrote before it exited, if its children hold its output open.
_LAST_WORDS = 1.0


class Run(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How a program ended. `exit_code` is minus the signal's number if one ended it; `duration` in ms.

    `truncated`: it said more than was kept, `error`: why it has failed, beside its exit code.
    """

    exit_code: int | None
    stdout: str
    stderr: str
    duration: int
    truncated: bool = False
    error: str | None = None


class _Capture(asyncio.SubprocessProtocol):
    """Keeps the first `limit` bytes of each of a program's output streams and drops the rest."""

    def __init__(self, limit: int) -> None:
        loop = asyncio.get_running_loop()
        self._limit = limit
        self._kept = {_STDOUT: bytearray(), _STDERR: bytearray()}
        self.truncated = False
        self.exited: asyncio.Future[None] = loop.create_future()
        # It has exited, and all that it wrote has arrived.
        self.ended: asyncio.Future[None] = loop.create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept = self._kept[fd]
        room = self._limit - len(kept)
        kept += data[:room]
        self.truncated = self.truncated or len(data) > room

    def process_exited(self) -> None:
        self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)

    def text(self, fd: int) -> str:
        return self._kept[fd].decode(errors="replace")


async def run_program(argv: Sequence[str], *, timeout: float, max_output: int) -> Run:
    """Run a program to its end, or for `timeout` seconds; then it is killed with all of its process group.

    What a program leaves in the background when it exits in time, as a service does, is left alone.

    Args:
        argv: the program, by path or by name on the system's PATH, and its arguments, taken literally.
        timeout: seconds.
        max_output: bytes that are kept of each output stream.

    Raises:
        OSError: the program can't be started.
    """
    started = time.perf_counter()
    transport, capture = await _start(argv, max_output)
    error = None
    try:
        async with asyncio.timeout(timeout):
            await asyncio.shield(capture.exited)
        await asyncio.wait([capture.ended], timeout=_LAST_WORDS)
    except TimeoutError:
        error = f"timed out after {timeout:g} s and was killed"
    finally:
        await _end(transport, capture)
    return Run(
        exit_code=transport.get_returncode(),
        stdout=capture.text(_STDOUT),
        stderr=capture.text(_STDERR),
        duration=round((time.perf_counter() - started) * 1000),
        truncated=capture.truncated,
        error=error,
    )


async def _start(argv: Sequence[str], max_output: int) -> tuple[asyncio.SubprocessTransport, _Capture]:
    starting = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_exec(
            lambda: _Capture(max_output),
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # It may run already, and asyncio alone would kill it without its children.
        with suppress(OSError):
            await _end(*await starting)
        raise


async def _end(transport: asyncio.SubprocessTransport, capture: _Capture) -> None:
    """Kill what has not exited, with its process group, and collect what is left of it."""
    if not capture.exited.done():
        # Before its exit is collected, the id of its group is nobody else's.
        with suppress(ProcessLookupError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
        await asyncio.shield(capture.exited)
    transport.close()
    await asyncio.shield(capture.ended)
