"""The waits between attempts."""

from __future__ import annotations

import pytest

from pingup.backoff import full_jitter


@pytest.mark.parametrize(("attempt", "longest"), [(0, 2), (1, 4), (4, 32), (5, 60), (10_000, 60)])
def test_waits_are_random_double_and_end_at_the_limit(attempt: int, longest: float) -> None:
    waits = {full_jitter(2, 60, attempt) for _ in range(200)}
    assert len(waits) > 100
    assert 0 <= min(waits) < longest / 4
    assert longest * 3 / 4 < max(waits) <= longest
