"""How long to wait before the next attempt to connect, so that a fleet does not come back all at once."""

from __future__ import annotations

import random


def full_jitter(first: float, limit: float, attempt: int) -> float:
    """Seconds before attempt number `attempt`, counted from 0.

    Random between 0 and a wait that begins with `first` seconds and doubles up to `limit` (M. Brooker,
    "Exponential Backoff And Jitter").
    """
    longest = min(limit, first * 2.0 ** min(attempt, 32))
    return random.uniform(0, longest)  # noqa: S311 - not a secret
