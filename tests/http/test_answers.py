"""Answers on the wire: byte for byte what aiohttp's own response comes to, whoever asks and however."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from itertools import product

import pytest
from aiohttp import hdrs, web
from multidict import istr

from pingup.http.answers import Answer, Headers, lines
from pingup.http.middleware import Handle

HEADERS: Headers = {hdrs.SERVER: "pingup", hdrs.LOCATION: "/näxt", hdrs.CONTENT_TYPE: "application/json"}
BODIES: dict[HTTPStatus, bytes | None] = {
    HTTPStatus.OK: b"{}",
    HTTPStatus.CREATED: b"x" * 300_000,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: b"{}",
    HTTPStatus.NO_CONTENT: None,
    HTTPStatus.NOT_MODIFIED: None,
}
CALLS = [
    f"{method} /{int(status)} HTTP/{version}\r\nHost: x\r\n{connection}\r\n".encode()
    for method, status, version, connection in product(
        ("GET", "HEAD", "POST"),
        BODIES,
        ("1.0", "1.1"),
        ("", "Connection: close\r\n", "Connection: keep-alive\r\n"),
    )
]
# Only answered where the call before it leaves the connection open.
LAST_CALL = b"GET /200 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def answer_ours(request: web.BaseRequest) -> web.StreamResponse:
    status = HTTPStatus(int(request.path[1:]))
    return _close_after_413(Answer(status, lines(HEADERS), BODIES[status]))


async def answer_theirs(request: web.BaseRequest) -> web.StreamResponse:
    status = HTTPStatus(int(request.path[1:]))
    return _close_after_413(web.Response(status=status, headers=HEADERS, body=BODIES[status]))


def _close_after_413(response: web.StreamResponse) -> web.StreamResponse:
    if response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        response.force_close()
    return response


@asynccontextmanager
async def listening(handle: Handle) -> AsyncIterator[int]:
    listener = web.Server(handle, access_log=None)
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await listener.shutdown(1)
        await server.wait_closed()


async def received(port: int, call: bytes) -> bytes:
    """All that comes back, but for the date."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(10):
            writer.write(call + LAST_CALL)
            answers = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    assert re.search(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} [0-9:]{8} GMT\r\n", answers)
    return re.sub(rb"\r\nDate: [^\r]*", b"", answers)


async def test_an_answer_is_sent_as_aiohttp_would_send_it() -> None:
    async with listening(answer_ours) as ours, listening(answer_theirs) as theirs:
        for call in CALLS:
            assert await received(ours, call) == await received(theirs, call), call


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\0b", "a\x7fb"])
def test_no_value_of_a_header_begins_another_one(value: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        lines({istr("X-Name"): value})
    with pytest.raises(ValueError, match="control character"):
        lines({istr(value): "x"})
