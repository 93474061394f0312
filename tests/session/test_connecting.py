"""How a connection begins, and all that can be wrong with it, in plain words."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import ExitStack
from typing import Any

import mqtt5
import pytest

from pingup.brokers.session import Credentials, Options, Will, connect
from pingup.errors import Unavailable
from tests.session.peer import HOST, Inbox, Peer, ScriptedBroker, connected

ConnAck = mqtt5.ConnAckReasonCode


async def attempt(options: Options) -> None:
    async with connect(options, Inbox().take):
        pass


async def refuse(broker: ScriptedBroker, *answer: Any) -> str:
    """Answer a CONNECT with these packets and close; what whoever wanted to connect is told."""

    async def answer_it() -> Peer:
        peer = await broker.peer()
        await peer.expect(mqtt5.ConnectPacket)
        peer.send(*answer)
        await peer.close()
        return peer

    answering = asyncio.create_task(answer_it())
    with pytest.raises(Unavailable) as caught:
        await attempt(broker.options())
    await answering
    return str(caught.value)


async def test_the_broker_learns_who_we_are_and_what_we_want(broker: ScriptedBroker) -> None:
    options = broker.options(
        client_id="server",
        credentials=Credentials("user", "päss"),
        clean_start=False,
        session_expiry=86400,
        will=Will("gone", b"bye", retain=True),
        keep_alive=30,
        receive_maximum=15_000,
        max_packet=1_000_000,
    )
    connecting = asyncio.create_task(attempt(options))
    greeting = await (await broker.peer()).welcome()
    await connecting
    assert (greeting.client_id, greeting.username, greeting.password) == ("server", "user", "päss".encode())
    assert (greeting.clean_start, greeting.session_expiry_interval) == (False, 86400)
    assert (greeting.keep_alive, greeting.receive_max, greeting.max_packet_size) == (30, 15_000, 1_000_000)
    assert greeting.will is not None
    will = greeting.will
    assert (will.topic, will.payload, will.qos, will.retain) == (
        "gone",
        b"bye",
        mqtt5.QoS.AT_LEAST_ONCE,
        True,
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (ConnAck.BAD_USER_NAME_OR_PASSWORD, "bad user name or password"),
        (ConnAck.NOT_AUTHORIZED, "not authorised"),
        (ConnAck.QUOTA_EXCEEDED, "quota exceeded"),
        (ConnAck.UNSUPPORTED_PROTOCOL_VERSION, "does not speak MQTT 5"),
        (ConnAck.BANNED, "banned"),
    ],
)
async def test_a_refusal_is_told_in_words(broker: ScriptedBroker, code: ConnAck, words: str) -> None:
    told = await refuse(broker, mqtt5.ConnAckPacket(reason_code=code, reason_str="no entry"))
    assert words in told
    assert f"{HOST}:{broker.port}" in told
    assert "(the broker says 'no entry')" in told


async def test_a_broker_of_an_older_mqtt_is_told_as_one(broker: ScriptedBroker) -> None:
    # CONNACK of MQTT 3.1.1 with return code 1, "unacceptable protocol version".
    assert "not MQTT 5" in await refuse(broker, b"\x20\x02\x00\x01")


@pytest.mark.parametrize(
    "answer",
    [mqtt5.PubAckPacket(1), b"\x30\x05\0\1ax!", b"\x20\xff\xff\xff\xff"],
)
async def test_what_is_no_broker_is_told_as_none(broker: ScriptedBroker, answer: Any) -> None:
    assert "not MQTT 5" in await refuse(broker, answer)


async def test_a_broker_that_hangs_up_is_told(broker: ScriptedBroker) -> None:
    assert "closed the connection without a reason" in await refuse(broker)


async def test_a_port_that_nobody_listens_on_is_told() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        options = Options(host=HOST, port=taken.getsockname()[1], client_id="tester")
        with pytest.raises(Unavailable, match=r"cannot connect to 127\.0\.0\.1:\d+: connection refused"):
            await attempt(options)


async def test_a_broker_that_accepts_and_stays_silent_is_given_up(broker: ScriptedBroker) -> None:
    with pytest.raises(Unavailable, match=r"no answer from .* within 0\.05 s"):
        await attempt(broker.options(connect_within=0.05))
    assert await (await broker.peer()).is_closed()


async def test_a_broker_that_never_accepts_is_given_up() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        for _ in range(4):  # these fill the backlog: what comes after gets no answer at all
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        with pytest.raises(Unavailable, match="no answer"):
            await attempt(Options(host=HOST, port=port, client_id="tester", connect_within=0.05))


async def test_a_broker_on_ipv6_is_reached() -> None:
    try:
        opened = ScriptedBroker.open("::1")
        async with opened as broker:
            options = Options(host="::1", port=broker.port, client_id="tester", leave_within=0.2)
            connecting = asyncio.create_task(attempt(options))
            await (await broker.peer()).welcome()
            await connecting
            assert options.address == f"[::1]:{broker.port}"
    except OSError:
        pytest.skip("this machine has no IPv6")


async def test_a_name_with_two_addresses_is_reached_by_the_one_that_answers(
    monkeypatch: pytest.MonkeyPatch, broker: ScriptedBroker
) -> None:
    def resolve(*_: object, **__: object) -> list[Any]:
        stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET6, *stream, ("::1", broker.port, 0, 0)),
            (socket.AF_INET, *stream, (HOST, broker.port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    options = Options(host="broker.example", port=broker.port, client_id="tester", leave_within=0.2)
    connecting = asyncio.create_task(attempt(options))
    await (await broker.peer()).welcome()
    await connecting


async def test_names_are_not_resolved_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    resolving, proceed = asyncio.Event(), threading.Event()

    def resolve(*_: object, **__: object) -> list[Any]:
        loop.call_soon_threadsafe(resolving.set)
        proceed.wait(5)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    options = Options(host="broker.example", port=1, client_id="tester")
    connecting = asyncio.create_task(attempt(options))
    # While a resolver hangs, the loop runs on: it comes back here.
    await resolving.wait()
    proceed.set()
    with pytest.raises(Unavailable, match="the host name is not known"):
        await connecting


async def test_passwords_are_in_no_repr_and_no_error(broker: ScriptedBroker) -> None:
    options = broker.options(credentials=Credentials("user", "geheim"))
    assert "geheim" not in repr(options)
    connecting = asyncio.create_task(attempt(options))
    peer = await broker.peer()
    await peer.expect(mqtt5.ConnectPacket)
    peer.send(mqtt5.ConnAckPacket(reason_code=ConnAck.BAD_USER_NAME_OR_PASSWORD))
    with pytest.raises(Unavailable) as caught:
        await connecting
    assert "geheim" not in str(caught.value)


async def test_a_taken_over_session_is_told(broker: ScriptedBroker) -> None:
    async with connected(broker) as (connection, peer):
        peer.send(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER))
        with pytest.raises(Unavailable, match="session taken over by another client with the same id"):
            await connection.until_lost()
