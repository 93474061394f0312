"""Reprs without secrets, so that none gets into a log or a traceback."""

from __future__ import annotations

import msgspec


def without(struct: msgspec.Struct, *secrets: str) -> str:
    """The usual repr of a Struct in which the fields of these names, where they have a value, read `…`."""
    shown = (
        f"{name}=…" if name in secrets and value is not None else f"{name}={value!r}"
        for name in struct.__struct_fields__
        for value in (getattr(struct, name),)
    )
    return f"{type(struct).__name__}({', '.join(shown)})"
