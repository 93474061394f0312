"""Bodies of calls: read within bounds, and turned into types."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from aiohttp import HttpVersion11, hdrs, web

from pingup import codec
from pingup.errors import Invalid, Rejected
from pingup.http.problems import JSON, TooLarge, TooSlow, UnsupportedMediaType, errors_by_field

MAX_JSON_BYTES = 64 * 1024
PATIENCE = 60.0  # seconds for a whole body

T = TypeVar("T")
B = TypeVar("B", bytes, bytearray)


async def read(request: web.Request, limit: int, media_type: str = JSON) -> bytes:
    """The body, at most `limit` bytes of it, whatever its headers claim.

    Raises:
        UnsupportedMediaType: it says that it is something else, or is compressed.
        TooLarge: it is longer; nothing more of it is read.
        TooSlow: it took too long.
        Invalid: it ended early.
    """
    _check_form(request, media_type)
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    try:
        if request.content.is_eof():
            # It came together with its headers, as small ones do: nothing is to be waited for.
            return _bounded(request.content.read_nowait(), limit)
        await _invite(request)
        return await _collect(request, limit)
    except TimeoutError as problem:
        raise TooSlow(f"the body did not come within {PATIENCE:.0f} s") from problem
    except (web.RequestPayloadError, ConnectionError) as problem:
        raise Invalid("the body is not complete") from problem


async def _collect(request: web.Request, limit: int) -> bytes:
    body = bytearray()
    async with asyncio.timeout(PATIENCE):
        async for chunk in request.content.iter_any():
            body += chunk
            _bounded(body, limit)
    return bytes(body)


async def read_as(request: web.Request, wanted: type[T]) -> T:
    """A JSON body as a type; members that the type doesn't have are ignored.

    Raises:
        Refused: see `read`; Invalid also when it is no JSON, too deep, or has a wrong type in it.
    """
    return decode(await read(request, MAX_JSON_BYTES), wanted)


def decode(body: bytes, wanted: type[T]) -> T:
    """Bytes as a type, within the bounds that hold for messages too.

    Raises:
        Invalid: they are anything else, with the place in words and by field.
    """
    try:
        codec.check_bounds(body)
        return msgspec.json.decode(body, type=wanted)
    except Rejected as problem:
        raise Invalid(problem.detail) from problem
    except msgspec.ValidationError as problem:
        raise Invalid(str(problem), errors_by_field(str(problem))) from problem
    except msgspec.DecodeError as problem:
        raise Invalid(f"the body is not valid JSON: {problem}") from problem


async def expect_nothing_yet(request: web.Request) -> None:
    """Leave `Expect: 100-continue` for `read`, so that a refused caller need not send its body."""


async def _invite(request: web.Request) -> None:
    expected = request.headers.get(hdrs.EXPECT, "").lower()
    if expected == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The answer itself has not begun.
        request.writer.output_size = 0


def _check_form(request: web.Request, media_type: str) -> None:
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(f"a body may not be compressed, this one is {encoding}")
    if hdrs.CONTENT_TYPE in request.headers and request.content_type != media_type:
        raise UnsupportedMediaType(f"the body must be {media_type}, not {request.content_type}")


def _bounded(body: B, limit: int) -> B:
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body may have at most {limit:,} bytes")
