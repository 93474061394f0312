"""Answers: what was asked for as JSON, and what went wrong as problem documents (RFC 9457)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import hdrs
from msgspec import UNSET, UnsetType
from multidict import istr

from pingup import codec
from pingup.errors import Reason, Refused
from pingup.http.answers import Answer, Headers, lines

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"

# On every answer: nothing about versions, and no copies of what may hold a secret.
_HEADERS: Headers = {
    hdrs.SERVER: "pingup",
    hdrs.CACHE_CONTROL: "no-store",
    istr("X-Content-Type-Options"): "nosniff",
}
_JSON_LINES = lines({**_HEADERS, hdrs.CONTENT_TYPE: JSON})

# The parser's words: "Expected `str`, got `int` - at `$.name`".
_PLACE = re.compile(r"(.*) - at `\$\.?([^`]+)`", re.DOTALL)
# "/var/lib/pingup/" of a file's whole name; of an address (mqtt://host) nothing.
_DIRECTORIES = re.compile(r"(?<![\w:/])/(?:[^\s/\"']+/)*(?=[^\s/])")
_MISSING = re.compile(r"Object missing required field `(\w+)`")


class NotAcceptable(Refused):
    """The answer cannot be given in the form that was asked for."""


class TooSlow(Refused):
    """The body of the call did not come in time."""


class TooLarge(Refused):
    """The body of the call is larger than this call takes."""


class UnsupportedMediaType(Refused):
    """The body of the call has a form that this call does not take."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document; `errors` says by field what is wrong, `reason` why a message was rejected."""

    # No page explains the type further than its status does (RFC 9457, section 4.2.1).
    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: dict[str, str] | UnsetType = UNSET
    reason: Reason | UnsetType = UNSET


def answer(value: Any, status: HTTPStatus = HTTPStatus.OK, headers: Headers | None = None) -> Answer:
    """A value as JSON."""
    return answer_json(codec.encode(value), status, headers)


def answer_json(body: bytes, status: HTTPStatus = HTTPStatus.OK, headers: Headers | None = None) -> Answer:
    """What is JSON already."""
    if headers is None:
        return Answer(status, _JSON_LINES, body)
    return Answer(status, lines({**_HEADERS, hdrs.CONTENT_TYPE: JSON, **headers}), body)


def empty(status: HTTPStatus, headers: Headers) -> Answer:
    """An answer that can have no body, with 204 or 304."""
    return Answer(status, lines({**_HEADERS, **headers}), None)


def problem(
    status: HTTPStatus,
    detail: str,
    *,
    errors: Mapping[str, str] | None = None,
    reason: Reason | UnsetType = UNSET,
    headers: Headers | None = None,
) -> Answer:
    """A problem document as an answer."""
    document = Problem(
        title=status.phrase,
        status=status.value,
        detail=detail,
        errors=dict(errors) if errors else UNSET,
        reason=reason,
    )
    fields = lines({**_HEADERS, hdrs.CONTENT_TYPE: PROBLEM_JSON, **(headers or {})})
    return Answer(status, fields, codec.encode(document))


def without_directories(text: str) -> str:
    """A text with the files that it names, but not where they lie on this machine."""
    return _DIRECTORIES.sub("", text)


def errors_by_field(complaint: str) -> dict[str, str]:
    """The field that the parser complains of, and what is wrong with it; nothing if it names none."""
    found = _PLACE.fullmatch(complaint)
    what, where = (found[1], found[2]) if found else (complaint, "")
    missing = _MISSING.fullmatch(what)
    if missing:
        return {f"{where}.{missing[1]}".lstrip("."): "is missing"}
    return {where: what} if where else {}
