"""All cases."""

from __future__ import annotations

from tests.faults.case import Case
from tests.faults.cases import clock, damage, disk, flooding, freezing, killing, network, offline

CASES: tuple[Case, ...] = (
    *killing.CASES,
    *network.CASES,
    *freezing.CASES,
    *disk.CASES,
    *damage.CASES,
    *clock.CASES,
    *flooding.CASES,
    *offline.CASES,
)
