"""What all settings share: TOML files, dotted names, and a parser's complaint in a user's words."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pingup.errors import Unusable

USAGE = 2  # the exit code for a bad setting


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a configuration file.

    Raises:
        Unusable: it can't be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as problem:
        raise Unusable(f"cannot read the configuration file {path}: {problem.strerror}", USAGE) from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise Unusable(f"the configuration file {path} is not valid TOML: {problem}", USAGE) from problem


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name (`http.port`) as tables; None counts as not given."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        section, _, field = name.partition(".")
        if value is None:
            continue
        if field:
            nested.setdefault(section, {})[field] = value
        else:
            nested[section] = value
    return nested


def in_words(problem: msgspec.ValidationError) -> str:
    """The parser's words as a user's: `http.port: Expected …`."""
    text, _, place = str(problem).partition(" - at `$.")
    return f"{place.rstrip('`')}: {text}" if place else text
