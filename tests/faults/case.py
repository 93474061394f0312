"""A fault by name: what is done to the server, how often, and where its broker may be."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.faults.machine import LIMIT, Broken
from tests.faults.scene import Outcome, Scene
from tests.faults.stage import Mode, Setting

_WHOLE = 4 * LIMIT  # seconds for one run


@dataclass(frozen=True)
class Case:
    """One kind of fault. `runs` are those of a whole run of the suite, each with a seed of its own."""

    name: str
    play: Callable[[Scene], Awaitable[None]]
    runs: int
    setting: Setting = field(default_factory=Setting)
    modes: tuple[Mode, ...] = (Mode.EMBEDDED,)
    brief: bool = True
    """Whether it is quick enough to be one of the ordinary tests."""

    @property
    def slug(self) -> str:
        """Its name as a part of a path."""
        return re.sub("[^a-z0-9]+", "-", self.name.lower())


async def run(case: Case, mode: Mode, seed: int, directory: Path, share: float = 1.0) -> Outcome:
    """Play a case once in an empty directory, and count. What is wrong is told in the outcome."""
    scene = Scene(directory, seed, mode, share, case.setting)
    try:
        async with asyncio.timeout(_WHOLE), scene.set():
            await case.play(scene)
            await scene.conclude()
    except (Broken, aiohttp.ClientError, OSError) as problem:
        scene.outcome.problems.append(str(problem) or type(problem).__name__)
    return scene.outcome
