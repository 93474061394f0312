"""The routes put together as an application."""

from __future__ import annotations

from aiohttp import hdrs, web

from pingup.http.access import Route, guarded
from pingup.http.bodies import expect_nothing_yet
from pingup.http.context import CONTEXT, Context
from pingup.http.routes import ROUTES


def make_app(context: Context) -> web.Application:
    """The application over these services; every call goes through the access that its route names."""
    app = web.Application()
    app[CONTEXT] = context
    for route in (*ROUTES, *_internal_routes(context.internal_token)):
        handle = guarded(route)
        app.router.add_route(route.method, route.path, handle, expect_handler=expect_nothing_yet)
        if route.method == hdrs.METH_GET:
            app.router.add_route(hdrs.METH_HEAD, route.path, handle, expect_handler=expect_nothing_yet)
    return app


def _internal_routes(token: str | None) -> tuple[Route, ...]:
    if token is None:
        return ()
    from pingup.http import internal  # late: few brokers ask

    return internal.routes(token)
