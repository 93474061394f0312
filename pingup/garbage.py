"""When the server's process looks for garbage."""

from __future__ import annotations

import gc

# How many more objects than before there may be until garbage is looked for. With Python's 700 that is a
# twentieth of the work under load, and what it finds is nearly always just messages on their way.
_GARBAGE_AFTER = 10_000


def put_off_garbage() -> None:
    """Look for no garbage until `settle`: a start makes hardly any, and looking takes a tenth of it."""
    gc.disable()


def settle() -> None:
    """Let everything stay that the start has made. No look for garbage walks through it, which took 40 ms."""
    gc.freeze()
    gc.set_threshold(_GARBAGE_AFTER, *gc.get_threshold()[1:])
    gc.enable()
