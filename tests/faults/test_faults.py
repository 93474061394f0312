"""A few seeds of every fault, small enough for every day. The whole: `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.case import Case, run
from tests.faults.stage import Mode
from tests.faults.suite import CASES

SHARE = 0.1  # of the load of a whole run
SEED = 1

BRIEF = [
    pytest.param(case, mode, id=f"{case.slug}-{mode}") for case in CASES if case.brief for mode in case.modes
]


@pytest.mark.parametrize(("case", "mode"), BRIEF)
async def test_nothing_acknowledged_is_lost_doubled_or_forged(case: Case, mode: Mode, tmp_path: Path) -> None:
    outcome = await run(case, mode, SEED, tmp_path, SHARE)
    assert outcome.problems == []
    assert outcome.messages > 0
