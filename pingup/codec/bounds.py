"""Bounds that hold for every member of a message, known or not."""

from __future__ import annotations

import math
import re

from pingup.codec.limits import INT64_MIN, MAX_DEPTH, UINT64_MAX
from pingup.errors import Reason, Rejected

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(rb"[{}\[\]]")
# What a number must have at least, to be beyond 64 bits or to overflow to infinity.
_SUSPICIOUS = re.compile(rb"[0-9]{19}|[eE]\+?[0-9]{3}")
_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def check_bounds(payload: bytes) -> None:
    """Refuse text that is no UTF-8, nesting deeper than 8 and numbers beyond their bounds, anywhere.

    The parser would recurse on deep nesting and skip over what it does not know, so this looks first.
    """
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError as problem:
            raise Rejected(Reason.MALFORMED, f"the message is not UTF-8 (byte {problem.start})") from problem
    may_be_deep = payload.count(b"{") + payload.count(b"[") > MAX_DEPTH
    if may_be_deep or _SUSPICIOUS.search(payload):
        bare = _STRING.sub(b'""', payload)
        _check_depth(bare)
        _check_numbers(bare)


def _check_depth(bare: bytes) -> None:
    depth = 0
    for bracket in _BRACKET.findall(bare):
        depth += 1 if bracket in b"{[" else -1
        if depth > MAX_DEPTH:
            raise Rejected(Reason.TOO_DEEP, f"the message is nested deeper than {MAX_DEPTH} levels")


def _check_numbers(bare: bytes) -> None:
    for number in _NUMBER.finditer(bare):
        whole = number[1] is None and number[2] is None
        if whole and (len(number[0]) > 20 or not INT64_MIN <= int(number[0]) <= UINT64_MAX):
            raise Rejected(Reason.INVALID, f"the integer {_short(number[0])} is beyond 64 bits")
        if not whole and math.isinf(float(number[0])):
            raise Rejected(Reason.INVALID, f"the number {_short(number[0])} is too large")


def _short(number: bytes) -> str:
    text = number.decode()
    return text if len(text) <= 24 else f"{text[:20]}…"
