"""The cases by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tests.benchmarks.cases import (
    broker,
    commands,
    discovery,
    elsewhere,
    endurance,
    inserts,
    memory,
    ready,
    rest,
)
from tests.benchmarks.report import Effort, Measurement

Case = Callable[[Path, Effort], Iterable[Measurement]]
"""Measures in an empty directory."""

CASES: dict[str, Case] = {
    "ready": ready.measure,
    "memory": memory.measure,
    "rest": rest.measure,
    "broker": broker.measure,
    "elsewhere": elsewhere.measure,
    "commands": commands.measure,
    "discovery": discovery.measure,
    "inserts": inserts.measure,
    "endurance": endurance.measure,
}
ONLY_BY_NAME = frozenset({"endurance"})
"""Too long for everyday."""
