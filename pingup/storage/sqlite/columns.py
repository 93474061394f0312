"""How values stand in columns: moments as RFC 3339 texts that sort as they do, JSON as its text."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from pingup.clock import rfc3339


def moment_text(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def read_moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def read_optional_moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def read_object(text: str) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any])
