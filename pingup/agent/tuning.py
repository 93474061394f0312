"""The settings in force: the device's own, with what the server has changed of them laid on top.

A configuration replaces whatever was changed from afar before; `update_config` changes parts of it until
the next configuration comes. Both survive a restart.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pingup.agent.settings import AgentSettings, Tuning, check_tuning
from pingup.errors import PingupError, Unusable
from pingup.signing import hash_token
from pingup.sources import in_words

T = TypeVar("T")
_log = logging.getLogger(__name__)


class BadTuning(PingupError):
    """A change from afar that can't be applied; nothing of it was."""


class Remote(msgspec.Struct, frozen=True):
    """What the server has changed: the configuration as it came, unknown members too, and later updates.

    `login` is the fingerprint of the token in force then: an agent that was registered anew begins anew, with
    version 1.
    """

    login: str = ""
    version: int = 0
    config: dict[str, Any] = {}
    update: dict[str, Any] = {}


class Tuner:
    """Holds the settings in force and wakes those who wait for the next turn when they change."""

    def __init__(self, settings: AgentSettings, path: Path, token: str) -> None:
        """`path` is where the changes from afar are kept, `token` what the agent logs in with."""
        self._own = Tuning(
            interval=settings.interval, disk=settings.disk, latency=settings.latency, scan=settings.scan
        )
        self._ceiling = settings.scan.ceiling
        self._path = path
        self._login = hash_token(token).hex()[:16]
        self._remote = Remote(self._login)
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        self.current = self._own

    @property
    def version(self) -> int:
        """The version of the configuration in force, 0 for none."""
        return self._remote.version

    async def load(self) -> None:
        """Take up what the server had changed before the restart.

        Raises:
            Unusable: the file can't be read.
        """
        try:
            text = await asyncio.to_thread(_read, self._path)
            remote = self._remote if text is None else msgspec.json.decode(text, type=Remote)
            if remote.login == self._login:
                self.current, self._remote = self._combine(remote), remote
        except OSError as problem:
            raise Unusable(f"cannot read {self._path}: {problem.strerror}") from problem
        except (msgspec.DecodeError, BadTuning) as problem:
            # The device's own settings are good; the server still has the configuration and sends it again.
            _log.warning("what the server had configured is left out: %s", problem)

    async def apply(self, version: int, config: dict[str, Any]) -> None:
        """Put a configuration in force.

        Raises:
            BadTuning: a value in it is bad, or it can't be kept.
        """
        async with self._turn:
            await self._set(Remote(self._login, version, config))

    async def update(self, changes: dict[str, Any]) -> None:
        """Change a part of the settings.

        Raises:
            BadTuning: a value in it is bad, or it can't be kept.
        """
        async with self._turn:
            update = _lay(self._remote.update, changes)
            await self._set(msgspec.structs.replace(self._remote, update=update))

    async def hold(self, part: Callable[[Tuning], T], value: T, seconds: float | None = None) -> None:
        """Wait until this part of the settings is no longer `value`, but not longer than so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while part(self.current) == value:
                    await self._changed.wait()

    async def _set(self, remote: Remote) -> None:
        tuning = self._combine(remote)
        try:
            await asyncio.to_thread(_replace, self._path, msgspec.json.encode(remote))
        except OSError as problem:
            raise BadTuning(f"cannot keep it: {problem.strerror}") from problem
        self.current, self._remote = tuning, remote
        self._changed.set()
        self._changed = asyncio.Event()

    def _combine(self, remote: Remote) -> Tuning:
        values = _lay(_lay(msgspec.to_builtins(self._own), remote.config), remote.update)
        try:
            tuning = msgspec.convert(values, Tuning)
            check_tuning(tuning, self._ceiling)
        except msgspec.ValidationError as problem:
            raise BadTuning(in_words(problem)) from problem
        except ValueError as problem:
            raise BadTuning(str(problem)) from problem
        return tuning


def _lay(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """One set of values on top of another, sections member by member."""
    laid = dict(under)
    for name, value in over.items():
        below = laid.get(name)
        laid[name] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
    return laid


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the new one, whatever happens."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
