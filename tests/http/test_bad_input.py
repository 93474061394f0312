"""Bad input by REST: a clear refusal, nothing stored, and the next good message goes through."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pingup import signing
from pingup.clock import rfc3339
from pingup.http import bodies
from tests.http.house import JSON, House, Wire, shared_server

Make = Callable[[House], bytes]


def signed_text(house: House, text: str) -> bytes:
    return signing.sign(text.encode(), house.secret("a1"))


def changed(**members: Any) -> Make:
    """A properly signed message with other members."""
    return lambda house: house.sign({**house.sample(), **members})


def with_number(number: str) -> Make:
    """A properly signed message with this text as a number."""
    return lambda house: signed_text(house, json.dumps(house.sample(cpu=777)).replace("777", number))


def with_unknown(text: str) -> Make:
    """A properly signed message with a member that nobody knows."""
    return lambda house: signed_text(house, json.dumps({**house.sample(), "x": 777}).replace("777", text))


def signature_first(house: House) -> bytes:
    message = json.loads(house.sign(house.sample()))
    return json.dumps({"signature": message.pop("signature"), **message}).encode()


def signature_inside(house: House) -> bytes:
    message = json.loads(house.sign(house.sample()))
    return json.dumps({**house.sample(), "inner": {"x": 1, "signature": message["signature"]}}).encode()


def far_future(house: House) -> bytes:
    return house.sign(house.sample(at=house.ago(days=-1)))


def long_ago(house: House) -> bytes:
    return house.sign(house.sample(at=house.ago(days=31)))


BAD: dict[str, tuple[Make, int, str]] = {
    "empty": (lambda house: b"", 403, "no_signature"),
    "no JSON": (lambda house: b"hello", 403, "no_signature"),
    "malformed": (lambda house: signed_text(house, '{"agentId":"a1",,}'), 400, "malformed"),
    "no UTF-8": (lambda house: signing.sign(b'{"a":"\xff"}', house.secret("a1")), 400, "malformed"),
    "unsigned": (lambda house: json.dumps(house.sample()).encode(), 403, "no_signature"),
    "wrongly signed": (
        lambda house: signing.sign(json.dumps(house.sample()).encode(), "x" * 32),
        403,
        "bad_signature",
    ),
    "changed": (
        lambda house: house.sign(house.sample()).replace(b"12.5", b"99.5"),
        403,
        "bad_signature",
    ),
    "signature first": (signature_first, 403, "no_signature"),
    "signature inside": (signature_inside, 403, "no_signature"),
    "oversized": (changed(x="x" * 70_000), 413, "too_large"),
    "beyond all sizes": (changed(x="x" * 300_000), 413, "too_large"),
    "2,000 deep": (with_unknown("[" * 2000 + "]" * 2000), 400, "too_deep"),
    "NaN": (with_number("NaN"), 400, "malformed"),
    "1e999": (with_number("1e999"), 400, "invalid"),
    "1e999 unknown": (with_unknown("1e999"), 400, "invalid"),
    "100 digits": (with_number("9" * 100), 400, "invalid"),
    "latency beyond 32 bits": (
        lambda house: house.sign(house.sample(latency=3_000_000_000)),
        400,
        "invalid",
    ),
    "text as a number": (lambda house: house.sign(house.sample(cpu="12.5")), 400, "invalid"),
    "no metrics": (changed(metrics={"cpu": None}), 400, "invalid"),
    "metrics as a list": (changed(metrics=[1]), 400, "invalid"),
    "bad status": (changed(status="NOT OK"), 400, "invalid"),
    "no time zone": (changed(timestamp="2026-02-25T10:00:00"), 400, "invalid"),
    "far future": (far_future, 400, "from_the_future"),
    "long ago": (long_ago, 400, "too_old"),
    "another agent's id": (changed(agentId="b2"), 403, "wrong_agent"),
    "another kind": (
        lambda house: house.sign({"agentId": "a1", "timestamp": rfc3339(house.clock.now()), "version": 1}),
        400,
        "invalid",
    ),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_message_is_refused_and_the_next_good_one_taken(house: House, what: str) -> None:
    make, status, reason = BAD[what]
    answer = await house.send("/api/v1/metrics", make(house))
    assert (answer.status, answer.json["reason"]) == (status, reason)
    assert await house.stored() == []
    assert house.services.rejects.counts == {reason: 1}
    await house.store()
    assert len(await house.stored()) == 1


async def test_a_message_of_another_agent_is_refused_even_when_it_is_properly_signed(house: House) -> None:
    answer = await house.send("/api/v1/metrics", house.sign(house.sample("b2"), "b2"), agent_id="a1")
    assert (answer.status, answer.json["reason"]) == (403, "bad_signature")
    assert await house.stored("b2") == []


async def test_a_refusal_names_the_member_that_is_wrong(house: House) -> None:
    answer = await house.send("/api/v1/metrics", house.sign(house.sample(latency=3_000_000_000)))
    assert "32 bits" in answer.json["errors"]["metrics.latency"]


@shared_server
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b'{"id": "c3",}', "byte"),
        (b'{"id": "c3", "metadata": {"x": NaN}}', "byte"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"id": "\\ud800"}', ""),
        (b'{"id": "c3", "metadata": ' + b'{"x":' * 2000 + b"1" + b"}" * 2001, "deep"),
        (b'{"id": "c3", "metadata": {"x": 1e999}}', "large"),
        (b'{"id": "c3", "metadata": {"x": ' + b"9" * 100 + b"}}", "64 bits"),
        (b"[]", "object"),
        (b"null", "object"),
    ],
)
async def test_a_body_that_is_no_proper_json_is_refused_with_the_place(
    shared: House, body: bytes, detail: str
) -> None:
    answer = await shared.call("POST", "/api/v1/agents", shared.admin, body)
    assert answer.status == 400
    assert detail in answer.json["detail"]


@shared_server
@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("/api/v1/agents", 64 * 1024 + 1),
        ("/api/v1/metrics", 1024 * 1024 + 1),
        ("/api/v1/discovery", 1024 * 1024 + 1),
    ],
)
async def test_a_body_beyond_the_limit_is_413_and_ends_the_connection(
    shared: House, path: str, size: int
) -> None:
    token = shared.admin if path.endswith("agents") else shared.token("a1")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    async with Wire.open(shared) as wire:
        await wire.send(f"{head}Content-Length: {size}\r\n\r\n".encode(), b"x" * size)
        answer = await wire.answer()
        assert (answer.status, answer.headers["Connection"]) == (413, "close")
        assert await wire.reader.read() == b""


async def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(house: House) -> None:
    head = f"POST /api/v1/agents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.admin}\r\n"
    async with Wire.open(house) as wire:
        await wire.send(f"{head}Content-Length: 70000\r\n\r\n".encode())
        assert (await wire.answer()).status == 413


async def test_an_endless_chunked_body_is_cut_at_the_limit(house: House) -> None:
    head = (
        "POST /api/v1/agents HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"Authorization: Bearer {house.admin}\r\n\r\n"
    )
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    async with Wire.open(house) as wire:
        await wire.send(head.encode(), chunk, chunk)
        assert (await wire.answer()).status == 413


async def test_a_chunked_body_that_came_with_its_headers_has_the_same_limit(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_JSON_BYTES", 10)
    head = (
        "POST /api/v1/agents HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"Authorization: Bearer {house.admin}\r\n\r\n"
    )
    for size, status in ((10, 400), (11, 413)):
        async with Wire.open(house) as wire:
            await wire.send(f"{head}{size:x}\r\n{'x' * size}\r\n0\r\n\r\n".encode())
            assert (await wire.answer()).status == status


async def test_a_caller_that_waits_for_100_continue_is_refused_before_it_sends(house: House) -> None:
    asks = "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    post = "POST /api/v1/agents HTTP/1.1\r\nHost: x\r\n"
    async with Wire.open(house) as wire:
        await wire.send(f"{post}{asks}".encode())
        assert (await wire.answer()).status == 401
    async with Wire.open(house) as wire:
        await wire.send(f"{post}Authorization: Bearer {house.admin}\r\n{asks}".encode())
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"[   ]")
        assert (await wire.answer()).status == 400


async def test_a_body_that_does_not_come_is_408(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PATIENCE", 0.05)
    head = f"POST /api/v1/agents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.admin}\r\n"
    async with Wire.open(house) as wire:
        await wire.send(f"{head}Content-Length: 10\r\n\r\n".encode())
        assert (await wire.answer()).status == 408


async def test_a_body_that_ends_early_stores_nothing(house: House) -> None:
    message = house.sign(house.sample())
    head = (
        f"POST /api/v1/metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.token('a1')}\r\n"
        f"Content-Length: {len(message) + 1}\r\n\r\n"
    )
    async with Wire.open(house) as wire:
        await wire.send(head.encode(), message)
    assert await house.stored() == []


@shared_server
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {**JSON, "Content-Encoding": "gzip"},
        {**JSON, "Content-Encoding": "br"},
        {"Content-Type": "application/x-ndjson", "Content-Encoding": "deflate"},
    ],
)
async def test_a_body_in_another_form_is_415(shared: House, headers: dict[str, str]) -> None:
    answer = await shared.send("/api/v1/metrics", shared.sign(shared.sample()), headers=headers)
    assert answer.status == 415


@shared_server
async def test_ndjson_is_for_metrics_only(shared: House) -> None:
    headers = {"Content-Type": "application/x-ndjson"}
    assert (await shared.send("/api/v1/discovery", b"{}", headers=headers)).status == 415
