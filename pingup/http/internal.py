"""Questions of a broker outside: may they come in, may they publish or receive that. Off without a token.

Three brokers ask in forms of their own, and find in the answer what each of them reads:

- EMQX, HTTP authentication and authorisation: JSON as `broker_config/emqx/` has it; reads `result`,
  `is_superuser` and `expire_at` (docs.emqx.com, access-control/authn/http and access-control/authz/http).
- mosquitto-go-auth, backend `http`: JSON or a form, `acc` 1 read, 2 write, 3 both, 4 subscribe; reads `Ok`
  and `Error` with `response_mode json` (github.com/iegomez/mosquitto-go-auth, backends/http.go).
- VerneMQ, webhooks: names the question in the header `vernemq-hook`; reads `result`, "ok" or an error object
  (github.com/vernemq/vmq-docs, plugindevelopment/webhookplugins.md).

Every answer is 200: these brokers take any other status for a failure of ours. The last two send no headers
of one's own; there the token is the password in their URL (`http://broker:TOKEN@host`), sent as Basic.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from enum import IntEnum, StrEnum
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET, UnsetType

from pingup import signing
from pingup.access import may_publish, may_receive, may_subscribe_unfiltered
from pingup.discreet import without
from pingup.errors import Invalid, Unauthenticated
from pingup.http import bodies
from pingup.http.access import ANYBODY, Handle, Route
from pingup.http.context import CONTEXT
from pingup.http.problems import JSON, answer
from pingup.model import Principal

HOOK = "vernemq-hook"
FORM = "application/x-www-form-urlencoded"
# VerneMQ sends a message along with the question whether it may be published: 1 MiB as base64.
MAX_BYTES = 2 * 1024 * 1024
_MAX_FIELDS = 16

T = TypeVar("T")


def routes(token: str) -> tuple[Route, ...]:
    """The calls for whoever has this token."""
    return tuple(
        Route("POST", path, ANYBODY, _guarded(token, handle))
        for path, handle in (("/internal/mqtt/auth", authenticate), ("/internal/mqtt/acl", authorise))
    )


def _guarded(token: str, handle: Handle) -> Handle:
    async def guarded(request: web.Request) -> web.StreamResponse:
        if not signing.is_same(_shown_token(request), token):
            raise Unauthenticated("this call needs the token of the setting internal.token")
        return await handle(request)

    return guarded


def _shown_token(request: web.Request) -> str:
    scheme, _, shown = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer":
        return shown.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(shown, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


# --- may they come in ------------------------------------------------------------------------------


class Login(msgspec.Struct, frozen=True):
    """Somebody connects. What a client left out may come as null, or as an empty text."""

    username: str | None = None
    password: str | None = None
    clientid: str | None = None

    def __repr__(self) -> str:
        return without(self, "password")


class VerneLogin(msgspec.Struct, frozen=True):
    """The same as VerneMQ asks it."""

    username: str | None = None
    password: str | None = None
    client_id: str | None = None

    def __repr__(self) -> str:
        return without(self, "password")


class Admitted(msgspec.Struct, frozen=True):
    """The answer to EMQX and mosquitto-go-auth. `expire_at` is the end of a token, in seconds since 1970."""

    result: str
    ok: bool = msgspec.field(name="Ok")
    error: str = msgspec.field(name="Error")
    is_superuser: bool = False
    expire_at: int | UnsetType = UNSET


class VerneAnswer(msgspec.Struct, frozen=True):
    """The answer to VerneMQ: "ok", or what is wrong."""

    result: str | dict[str, str]


async def authenticate(request: web.Request) -> web.StreamResponse:
    """Whether somebody may connect with this password and this client id."""
    if HOOK in request.headers:
        _expect_hook(request, "auth_on_register")
        asked = await _read(request, VerneLogin)
        who = _log_in(request, asked.username, asked.password, asked.client_id)
        return _to_verne(is_permitted=who is not None)
    login = await _read(request, Login)
    return _verdict(_log_in(request, login.username, login.password, login.clientid))


def _log_in(
    request: web.Request, username: str | None, password: str | None, client_id: str | None
) -> Principal | None:
    if not username or not password:
        return None
    return request.app[CONTEXT].admission.log_in(username, password, client_id or "")


def _verdict(who: Principal | None) -> web.StreamResponse:
    if who is None:
        return answer(Admitted("deny", ok=False, error="not authorised"))
    ends = UNSET if who.expires_at is None else int(who.expires_at.timestamp())
    return answer(Admitted("allow", ok=True, error="", expire_at=ends))


# --- may they do that ------------------------------------------------------------------------------


class Action(StrEnum):
    """What EMQX asks about."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"


class Acc(IntEnum):
    """What mosquitto-go-auth asks about: Mosquitto's numbers."""

    READ = 1
    WRITE = 2
    READ_AND_WRITE = 3
    SUBSCRIBE = 4


class Use(msgspec.Struct, frozen=True):
    """Somebody uses a topic, or a filter: with `action` as EMQX asks it, with `acc` as mosquitto-go-auth."""

    topic: str
    username: str | None = None
    action: Action | None = None
    acc: Acc | None = None


class VernePublish(msgspec.Struct, frozen=True):
    """Somebody publishes, as VerneMQ asks it; the message itself is no matter."""

    topic: str
    username: str | None = None


class VerneFilter(msgspec.Struct, frozen=True):
    """One of the filters that somebody subscribes to."""

    topic: str


class VerneSubscribe(msgspec.Struct, frozen=True):
    """Somebody subscribes, as VerneMQ asks it; one filter that is not permitted denies them all."""

    topics: tuple[VerneFilter, ...]
    username: str | None = None


Rule = Callable[[Principal, str], bool]


def _may_use_both_ways(who: Principal, topic: str) -> bool:
    return may_receive(who, topic) and may_publish(who, topic)


_RULES: dict[Action | Acc, Rule] = {
    Action.PUBLISH: may_publish,
    Action.SUBSCRIBE: may_subscribe_unfiltered,
    Acc.READ: may_receive,
    Acc.WRITE: may_publish,
    Acc.READ_AND_WRITE: _may_use_both_ways,
    Acc.SUBSCRIBE: may_subscribe_unfiltered,
}


async def authorise(request: web.Request) -> web.StreamResponse:
    """Whether a user may publish on a topic, subscribe to a filter, or get a message."""
    if HOOK in request.headers:
        return await _authorise_verne(request)
    use = await _read(request, Use)
    asked = use.action or use.acc
    if asked is None:
        raise Invalid("neither an action nor an acc", {"action": "is missing"})
    if _is_permitted(request, use.username, _RULES[asked], use.topic):
        return answer(Admitted("allow", ok=True, error=""))
    return answer(Admitted("deny", ok=False, error="not authorised"))


async def _authorise_verne(request: web.Request) -> web.StreamResponse:
    if _expect_hook(request, "auth_on_publish", "auth_on_subscribe") == "auth_on_publish":
        publish = await _read(request, VernePublish)
        return _to_verne(is_permitted=_is_permitted(request, publish.username, may_publish, publish.topic))
    subscribe = await _read(request, VerneSubscribe)
    filters = [one.topic for one in subscribe.topics]
    return _to_verne(
        is_permitted=_is_permitted(request, subscribe.username, may_subscribe_unfiltered, *filters)
    )


def _is_permitted(request: web.Request, username: str | None, rule: Rule, *topics: str) -> bool:
    who = request.app[CONTEXT].admission.who_is(username or "")
    return who is not None and all(rule(who, topic) for topic in topics)


# --- what goes back and forth ----------------------------------------------------------------------


def _expect_hook(request: web.Request, *hooks: str) -> str:
    """The hook without its version of MQTT."""
    hook = request.headers[HOOK].removesuffix("_m5")
    if hook not in hooks:
        raise Invalid(f"the hook {request.headers[HOOK]} is not answered here, only {' and '.join(hooks)}")
    return hook


def _to_verne(*, is_permitted: bool) -> web.StreamResponse:
    return answer(VerneAnswer("ok" if is_permitted else {"error": "not_allowed"}))


async def _read(request: web.Request, wanted: type[T]) -> T:
    if request.content_type != FORM:
        return bodies.decode(await bodies.read(request, MAX_BYTES, JSON), wanted)
    body = await bodies.read(request, MAX_BYTES, FORM)
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
        return msgspec.convert(fields, wanted, strict=False)
    except ValueError as problem:
        raise Invalid(f"the form is not valid: {problem}") from problem
