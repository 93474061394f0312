"""Whether the server lives, is ready, and how its parts are."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from aiohttp import web

from pingup.http.context import CONTEXT
from pingup.http.problems import answer, without_directories
from pingup.services.health import Component, Health, Status


async def health(request: web.Request) -> web.StreamResponse:
    """Every part by name; 503 when the whole does not work. Strangers learn nothing of directories."""
    found = await request.app[CONTEXT].health.look()
    components = {name: _shown(component) for name, component in found.components.items()}
    return answer(msgspec.structs.replace(found, components=components), _status(found))


async def live(request: web.Request) -> web.StreamResponse:
    """The process answers: that is all it says."""
    return answer({"status": "alive"})


async def ready(request: web.Request) -> web.StreamResponse:
    """Whether calls can be served now."""
    found = await request.app[CONTEXT].health.look()
    status = _status(found)
    return answer({"status": "ready" if status is HTTPStatus.OK else "not ready"}, status)


def _shown(component: Component) -> Component:
    if component.detail is None:
        return component
    return msgspec.structs.replace(component, detail=without_directories(component.detail))


def _status(found: Health) -> HTTPStatus:
    return HTTPStatus.SERVICE_UNAVAILABLE if found.status is Status.UNHEALTHY else HTTPStatus.OK
