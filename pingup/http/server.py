"""REST on a socket: listening, bounded, and stopping without cutting anybody off."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Self

from aiohttp import web

from pingup.errors import Unusable
from pingup.http.application import make_app
from pingup.http.context import Context
from pingup.http.middleware import answering_problems
from pingup.http.problems import problem
from pingup.settings import HttpSettings

log = logging.getLogger(__name__)

STOP_PATIENCE = 10.0  # seconds for requests under way
KEEP_ALIVE = 75.0  # seconds without a request
_BACKLOG = 1024
_MAX_LINE = 8 * 1024  # bytes of the request line, and of one header
_MAX_HEADERS = 64

_OPTIONS: dict[str, Any] = {
    "access_log": None,
    # A small body must not become a large one behind the limits' back.
    "auto_decompress": False,
    "keepalive_timeout": KEEP_ALIVE,
    "max_line_size": _MAX_LINE,
    "max_field_size": _MAX_LINE,
    "max_headers": _MAX_HEADERS,
}


class Server:
    """A listening server. `port` is the one that it listens on, `url` what clients call it by."""

    def __init__(self, host: str, port: int) -> None:
        self.port = port
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @classmethod
    @asynccontextmanager
    async def open(cls, context: Context, settings: HttpSettings) -> AsyncIterator[Self]:
        """Listen until the context is left; requests under way may then finish within their bound.

        Raises:
            Unusable: the address can't be listened on.
        """
        runner = _Runner(make_app(context), shutdown_timeout=STOP_PATIENCE)
        await runner.setup()
        try:
            yield cls(settings.host, await _listen(runner, settings))
        finally:
            await runner.cleanup()


async def _listen(runner: web.AppRunner, settings: HttpSettings) -> int:
    """Listen, and tell the port: where the settings say 0, it is a free one."""
    try:
        await web.TCPSite(runner, settings.host, settings.port, backlog=_BACKLOG).start()
    except OSError as trouble:
        address = f"{settings.host}:{settings.port}"
        raise Unusable(f"HTTP: cannot listen on {address}: {_why(trouble)}") from trouble
    port: int = runner.addresses[0][1]
    return port


def _why(trouble: OSError) -> str | None:
    # asyncio's own text repeats the address; a name that is not found has no number of the system's.
    if trouble.errno is None or isinstance(trouble, socket.gaierror):
        return trouble.strerror
    hint = "; choose another with --http-port" if trouble.errno == errno.EADDRINUSE else ""
    return os.strerror(trouble.errno).lower() + hint


class _Protocol(web.RequestHandler):
    """A connection whose own errors look like all others: no HTTP at all, or a bug of ours."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status == HTTPStatus.BAD_REQUEST:
            log.debug("not HTTP: %s", message)
            response = problem(HTTPStatus.BAD_REQUEST, "this is not HTTP, or its headers are too large")
        else:
            log.error("%s %s failed", request.method, request.path, exc_info=exc)
            response = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log says why")
        response.force_close()
        return response


class _Listener(web.Server):
    """Makes a protocol for each connection."""

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **_OPTIONS)


class _Runner(web.AppRunner):
    """Runs the application on our own protocol."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handle = answering_problems(made.request_handler)
        return _Listener(handle, request_factory=made.request_factory)
