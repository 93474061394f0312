"""The only map from errors to statuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import hdrs, web

from pingup.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    PreconditionFailed,
    Reason,
    Refused,
    Rejected,
    Unauthenticated,
    Unavailable,
)
from pingup.http.problems import (
    NotAcceptable,
    TooLarge,
    TooSlow,
    UnsupportedMediaType,
    empty,
    errors_by_field,
    problem,
    without_directories,
)

RETRY_AFTER = "5"  # seconds

STATUS_OF_REFUSALS: dict[type[Refused], HTTPStatus] = {
    Invalid: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    NotAcceptable: HTTPStatus.NOT_ACCEPTABLE,
    TooSlow: HTTPStatus.REQUEST_TIMEOUT,
    Conflict: HTTPStatus.CONFLICT,
    PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}
STATUS_OF_REASONS: dict[Reason, HTTPStatus] = {
    Reason.NO_SIGNATURE: HTTPStatus.FORBIDDEN,
    Reason.BAD_SIGNATURE: HTTPStatus.FORBIDDEN,
    Reason.UNKNOWN_AGENT: HTTPStatus.FORBIDDEN,
    Reason.UNKNOWN_KIND: HTTPStatus.BAD_REQUEST,
    Reason.WRONG_AGENT: HTTPStatus.FORBIDDEN,
    Reason.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Reason.TOO_DEEP: HTTPStatus.BAD_REQUEST,
    Reason.MALFORMED: HTTPStatus.BAD_REQUEST,
    Reason.INVALID: HTTPStatus.BAD_REQUEST,
    Reason.FROM_THE_FUTURE: HTTPStatus.BAD_REQUEST,
    Reason.TOO_OLD: HTTPStatus.BAD_REQUEST,
    Reason.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.CONFLICT: HTTPStatus.CONFLICT,
    Reason.NOT_ALLOWED: HTTPStatus.BAD_REQUEST,
    Reason.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}


Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def answering_problems(handle: Handle) -> Handle:
    """Turn what is expected to go wrong into a problem document; a bug is `server`'s to answer.

    It stands before the whole application: aiohttp's middlewares within it are put together for each request.
    """

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handle(request)
        except Refused as refusal:
            return _of_refusal(refusal)
        except Rejected as rejection:
            return problem(
                STATUS_OF_REASONS[rejection.reason],
                rejection.detail,
                errors=errors_by_field(rejection.detail),
                reason=rejection.reason,
            )
        except Unavailable as trouble:
            headers = {hdrs.RETRY_AFTER: RETRY_AFTER}
            words = without_directories(str(trouble))
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, words, headers=headers)
        except web.HTTPException as exception:
            return _of_aiohttp(request, exception)

    return answer


def _of_refusal(refusal: Refused) -> web.StreamResponse:
    headers = {}
    if isinstance(refusal, Unauthenticated):
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    status = STATUS_OF_REFUSALS[type(refusal)]
    response = problem(status, refusal.detail, errors=refusal.errors, headers=headers)
    if isinstance(refusal, TooLarge):
        # The rest of the body is not read.
        response.force_close()
    return response


def _of_aiohttp(request: web.BaseRequest, exception: web.HTTPException) -> web.StreamResponse:
    status = HTTPStatus(exception.status)
    if isinstance(exception, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(exception.allowed_methods))
        headers = {hdrs.ALLOW: allowed}
        if request.method == hdrs.METH_OPTIONS:
            return empty(HTTPStatus.NO_CONTENT, headers)
        detail = f"{request.method} is not possible here, only {allowed}"
        return problem(status, detail, headers=headers)
    if status is HTTPStatus.NOT_FOUND:
        return problem(status, f"there is nothing at {request.path}")
    return problem(status, status.description)
