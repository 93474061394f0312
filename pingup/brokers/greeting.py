"""The first packet of a connection: what a CONNECT asks for, and who asks."""

from __future__ import annotations

from typing import Protocol

import msgspec
from amqtt.mqtt.connack import (
    BAD_USERNAME_PASSWORD,
    IDENTIFIER_REJECTED,
    NOT_AUTHORIZED,
    SERVER_UNAVAILABLE,
    UNACCEPTABLE_PROTOCOL_VERSION,
    ConnackPacket,
)
from amqtt.mqtt.connect import ConnectPacket

from pingup.access import assign_client_id, is_topic
from pingup.brokers.framing import Frame, Publish, Violation, read_packet
from pingup.discreet import without
from pingup.errors import PingupError
from pingup.model import AgentKey, Principal

_PROTOCOL = b"\0\x04MQTT"
_OLD_PROTOCOL = b"\0\x06MQIsdp"
_LEVEL = 4


class Keyring(Protocol):
    """Who is who; `pingup.services.keyring` is one."""

    def login(self, username: str, password: str) -> Principal | None: ...

    def key_of(self, agent_id: str) -> AgentKey | None: ...


class Greeting(msgspec.Struct, frozen=True):
    """What a CONNECT says, before anybody believes it. `keep_alive` is seconds, 0 for none.

    A will is the PUBLISH that it would be.
    """

    client_id: str
    username: str | None
    password: str | None
    clean_session: bool
    keep_alive: int
    will: Publish | None

    def __repr__(self) -> str:
        return without(self, "password")


class Login(msgspec.Struct, frozen=True):
    """Who a greeting came from, and the client id that it got."""

    principal: Principal
    client_id: str


class Refusal(PingupError):
    """A connection is not accepted: answered with the return code of a CONNACK, then closed."""

    def __init__(self, return_code: int) -> None:
        super().__init__(f"refused with {return_code}")
        self.return_code = return_code


def connack(return_code: int, *, session_present: bool = False) -> bytes:
    """The answer to a CONNECT."""
    return ConnackPacket.build(int(session_present), return_code).to_bytes()


async def read_greeting(frame: Frame) -> Greeting:
    """The first frame of a connection as a greeting.

    Raises:
        Refusal: another version of the protocol, or no client id for a session that is to be kept.
        Violation: malformed.
    """
    _check_protocol(frame.body)
    packet = await read_packet(frame)
    if not isinstance(packet, ConnectPacket) or packet.reserved_flag:
        raise Violation("a malformed CONNECT")
    client_id = packet.client_id or ""
    if "\0" in client_id:
        raise Violation("a client id with U+0000")
    if not client_id and not packet.clean_session_flag:
        raise Refusal(IDENTIFIER_REJECTED)
    return Greeting(
        client_id,
        packet.username,
        packet.password,
        packet.clean_session_flag,
        packet.keep_alive,
        _read_will(packet),
    )


def _check_protocol(body: bytes) -> None:
    if body.startswith(_OLD_PROTOCOL):
        raise Refusal(UNACCEPTABLE_PROTOCOL_VERSION)
    if not body.startswith(_PROTOCOL) or len(body) <= len(_PROTOCOL):
        raise Violation("another protocol")
    if body[len(_PROTOCOL)] != _LEVEL:
        raise Refusal(UNACCEPTABLE_PROTOCOL_VERSION)


def _read_will(packet: ConnectPacket) -> Publish | None:
    if not packet.will_flag:
        if packet.will_qos or packet.will_retain_flag:
            raise Violation("a CONNECT with the flags of a will and no will")
        return None
    topic = packet.will_topic or ""
    if packet.will_qos == 3 or not is_topic(topic) or "\0" in topic:
        raise Violation("a malformed will")
    return Publish(topic, bytes(packet.will_message or b""), packet.will_qos, packet.will_retain_flag)


def log_in(greeting: Greeting, keyring: Keyring) -> Login:
    """Find out who greets, and under which client id. Nothing of anybody's session is touched.

    Raises:
        Refusal: nobody we know, or not with this client id.
        Exception: whatever is wrong with the keyring.
    """
    if greeting.username is None or greeting.password is None:
        raise Refusal(NOT_AUTHORIZED)
    principal = keyring.login(greeting.username, greeting.password)
    if principal is None:
        raise Refusal(BAD_USERNAME_PASSWORD)
    client_id = assign_client_id(principal, greeting.client_id, lambda name: keyring.key_of(name) is not None)
    if client_id is None:
        raise Refusal(IDENTIFIER_REJECTED)
    return Login(principal, client_id)


UNAVAILABLE = connack(SERVER_UNAVAILABLE)
