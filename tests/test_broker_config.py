"""The Mosquitto configuration that Pingup ships, in a real Mosquitto, judged by what arrives."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiomqtt
import mqtt5
import pytest

from pingup.topics import matches
from tests.mosquitto import (
    HOST,
    LISTENER,
    REQUIRE_ALL,
    Mosquitto,
    find_program,
    make_certificate,
    running_mosquitto,
)

pytestmark = pytest.mark.mosquitto

SHIPPED = Path(__file__).parent.parent / "broker_config" / "mosquitto"
LIMIT = 10.0

AGENT = "agent-1"
OTHER = "agent-2"
READER = "operator.example-read"
ADMIN = "operator.example-admin"
USERS = ("server", AGENT, OTHER, READER, ADMIN)


@dataclass(frozen=True)
class Role:
    """A line of the access table: topic filters."""

    publishes: tuple[str, ...]
    receives: tuple[str, ...]


def _agent(agent_id: str) -> Role:
    return Role((f"pingup/v1/up/{agent_id}/#",), (f"pingup/v1/down/{agent_id}/#", "pingup/v1/sys/status"))


ROLES = {
    # `sys/status` is its own birth; Mosquitto's patterns hold for every user.
    "server": Role(
        ("pingup/v1/down/#", "pingup/v1/live/#", "pingup/v1/sys/#"),
        ("pingup/v1/up/#", "pingup/v1/sys/status"),
    ),
    AGENT: _agent(AGENT),
    OTHER: _agent(OTHER),
    READER: Role((), ("pingup/v1/live/#", "pingup/v1/sys/#")),
    ADMIN: Role((), ("pingup/#",)),
}

TOPICS = (
    f"pingup/v1/up/{AGENT}/metrics",
    f"pingup/v1/up/{AGENT}/status",
    f"pingup/v1/up/{OTHER}/metrics",
    f"pingup/v1/up/{OTHER}/status",
    f"pingup/v1/down/{AGENT}/commands",
    f"pingup/v1/down/{AGENT}/config",
    f"pingup/v1/down/{OTHER}/commands",
    f"pingup/v1/live/{AGENT}/metrics",
    f"pingup/v1/live/{OTHER}/presence",
    "pingup/v1/sys/status",
    "pingup/v1/sys/rejects",
)
# Where nobody's messages belong: places that the patterns would open to users who are no agents.
NOWHERE = (
    "pingup/v1/up/server/metrics",
    f"pingup/v1/up/{READER}/metrics",
    f"pingup/v1/up/{ADMIN}/metrics",
    "pingup/v1/other",
)
MARKER = "pingup/v1/sys/status"


def _allowed(topic: str, filters: Iterable[str]) -> bool:
    return any(matches(topic, topic_filter) for topic_filter in filters)


def _rightful(topic: str) -> str:
    """The user whose topic it is."""
    return next(user for user, role in ROLES.items() if _allowed(topic, role.publishes))


@dataclass(frozen=True)
class Broker:
    """The running broker and the way in for each of its users."""

    mosquitto: Mosquitto
    tls: ssl.SSLContext | None = None

    def client(self, user: str, *, clean: bool = True, client_id: str | None = None) -> aiomqtt.Client:
        return aiomqtt.Client(
            HOST,
            self.mosquitto.port,
            identifier=client_id or user,
            username=user,
            password=_password(user),
            clean_session=clean,
            tls_context=self.tls,
            timeout=LIMIT,
        )

    @asynccontextmanager
    async def everybody(self) -> AsyncIterator[dict[str, aiomqtt.Client]]:
        """A connection for each user: only one at a time, because a second one would end the first."""
        async with AsyncExitStack() as stack:
            yield {user: await stack.enter_async_context(self.client(user)) for user in USERS}


def _password(user: str) -> str:
    return f"the password of {user}"


def _install(directory: Path) -> str:
    """Put the shipped files and a password for each user into a directory; gives the configuration."""
    for name in ("acl", "passwords"):
        (directory / name).write_bytes((SHIPPED / name).read_bytes())
    for user in USERS:
        _passwd(directory, "-b", user, _password(user))
    return (SHIPPED / "mosquitto.conf").read_text("utf-8")


def _passwd(directory: Path, option: str, user: str, *password: str) -> None:
    command = [find_program("mosquitto_passwd"), option, str(directory / "passwords"), user, *password]
    subprocess.run(command, check=True, timeout=LIMIT)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running_mosquitto(tmp_path, _install(tmp_path)) as mosquitto:
        yield Broker(mosquitto)


async def _until(client: aiomqtt.Client, last: str) -> list[aiomqtt.Message]:
    """What arrives before the payload `last`; everything acknowledged before it was sent is there by then."""
    messages: list[aiomqtt.Message] = []
    async with asyncio.timeout(LIMIT):
        async for message in client.messages:
            if message.payload == last.encode():
                return messages
            messages.append(message)
    raise AssertionError("the connection ended")


async def _arrivals(client: aiomqtt.Client, server: aiomqtt.Client) -> list[aiomqtt.Message]:
    """All that has reached a client by now: what comes before a message that the server sends at last."""
    await server.publish(MARKER, "end", qos=1)
    return await _until(client, "end")


def _topics(messages: Iterable[aiomqtt.Message]) -> set[str]:
    return {str(message.topic) for message in messages}


def _publishable(user: str) -> set[str]:
    return {topic for topic in TOPICS if _allowed(topic, ROLES[user].publishes)}


def _receivable(user: str) -> set[str]:
    return {topic for topic in TOPICS if _allowed(topic, ROLES[user].receives)}


@pytest.mark.parametrize("user", USERS)
async def test_a_user_publishes_where_the_table_says_and_nowhere_else(broker: Broker, user: str) -> None:
    async with broker.everybody() as clients:
        await clients[ADMIN].subscribe("pingup/#", qos=1)
        for topic in (*TOPICS, *NOWHERE):
            await clients[user].publish(topic, "a message", qos=1)
        arrived = await _arrivals(clients[ADMIN], clients["server"])
    assert _topics(arrived) == _publishable(user)


@pytest.mark.parametrize("user", USERS)
async def test_a_user_retains_where_the_table_says_and_nowhere_else(broker: Broker, user: str) -> None:
    async with broker.everybody() as clients:
        for topic in (*TOPICS, *NOWHERE):
            await clients[user].publish(topic, "a message", qos=1, retain=True)
        await clients[ADMIN].subscribe("pingup/#", qos=1)
        arrived = await _arrivals(clients[ADMIN], clients["server"])
    assert _topics(arrived) == _publishable(user)


@pytest.mark.parametrize("user", USERS)
async def test_a_user_receives_what_the_table_says_and_nothing_else(broker: Broker, user: str) -> None:
    async with broker.everybody() as clients:
        for topic_filter in ("#", "pingup/#", "$SYS/#", *TOPICS):
            await clients[user].subscribe(topic_filter, qos=1)
        for topic in TOPICS:
            await clients[_rightful(topic)].publish(topic, "a message", qos=1)
        arrived = await _arrivals(clients[user], clients["server"])
    assert _topics(arrived) == _receivable(user)


@pytest.mark.parametrize("user", USERS)
async def test_a_user_gets_retained_what_the_table_says_and_nothing_else(broker: Broker, user: str) -> None:
    async with broker.everybody() as clients:
        for topic in TOPICS:
            await clients[_rightful(topic)].publish(topic, "a message", qos=1, retain=True)
        for topic_filter in ("#", "$SYS/#", *TOPICS):
            await clients[user].subscribe(topic_filter, qos=1)
        arrived = await _arrivals(clients[user], clients["server"])
    assert _topics(message for message in arrived if message.retain) == _receivable(user)


@pytest.mark.parametrize("user", [AGENT, READER])
async def test_a_will_reaches_nobody_where_its_user_may_not_publish(broker: Broker, user: str) -> None:
    async with broker.client(ADMIN) as admin, broker.client("server") as server:
        await admin.subscribe("pingup/#", qos=1)
        for topic in (*TOPICS, *NOWHERE):
            await _die_with_will(broker, user, topic, "a will")
        # When the will of the last to go has come, the broker knows that the others are gone too.
        await _die_with_will(broker, OTHER, f"pingup/v1/up/{OTHER}/status", "the last will")
        arrived = await _until(admin, "the last will") + await _arrivals(admin, server)
    assert _topics(arrived) == _publishable(user)


async def _die_with_will(broker: Broker, user: str, topic: str, payload: str) -> None:
    """Connect with a will on a topic and go without a word, as a device without power does."""
    reader, writer = await asyncio.open_connection(HOST, broker.mosquitto.port)
    try:
        connect = mqtt5.ConnectPacket(
            user,
            username=user,
            password=_password(user).encode(),
            clean_start=True,
            will=mqtt5.Will(topic, payload=payload.encode(), qos=mqtt5.QoS.AT_LEAST_ONCE),
        )
        writer.write(connect.write())
        async with asyncio.timeout(LIMIT):
            await reader.read(1)
    finally:
        writer.transport.abort()
        writer.close()


async def test_an_agent_that_names_itself_server_takes_neither_its_session_nor_its_messages(
    broker: Broker,
) -> None:
    async with broker.client("server", clean=False) as server:
        await server.subscribe("pingup/v1/up/#", qos=1)
    async with broker.client(AGENT, client_id="server") as thief:
        await thief.subscribe("pingup/v1/up/#", qos=1)
        await thief.publish(f"pingup/v1/up/{AGENT}/metrics", "for the server", qos=1)
        async with broker.client("server", clean=False) as server:
            assert await _until(server, "for the server") == []
            await thief.publish(f"pingup/v1/up/{AGENT}/metrics", "to a server that is there", qos=1)
            assert await _until(server, "to a server that is there") == []


async def test_an_agent_that_takes_another_agents_client_id_leaves_it_connected(broker: Broker) -> None:
    async with broker.client(AGENT) as agent, broker.client(OTHER, client_id=AGENT):
        await agent.subscribe(f"pingup/v1/down/{AGENT}/#", qos=1)
        async with broker.client("server") as server:
            await server.publish(f"pingup/v1/down/{AGENT}/commands", "still there?", qos=1)
        assert await _until(agent, "still there?") == []


@pytest.mark.parametrize(
    ("user", "password"),
    [(None, None), (AGENT, None), (AGENT, "wrong"), ("agent-3", "unknown"), (None, "nameless")],
)
async def test_without_its_password_nobody_comes_in(
    broker: Broker, user: str | None, password: str | None
) -> None:
    stranger = aiomqtt.Client(
        HOST, broker.mosquitto.port, identifier=AGENT, username=user, password=password, timeout=LIMIT
    )
    with pytest.raises(aiomqtt.MqttError):
        async with stranger:
            pass


async def test_as_shipped_nobody_has_a_password(tmp_path: Path) -> None:
    (tmp_path / "acl").write_bytes((SHIPPED / "acl").read_bytes())
    (tmp_path / "passwords").write_bytes((SHIPPED / "passwords").read_bytes())
    async with running_mosquitto(tmp_path, (SHIPPED / "mosquitto.conf").read_text("utf-8")) as mosquitto:
        for user in USERS:
            with pytest.raises(aiomqtt.MqttError):
                async with Broker(mosquitto).client(user):
                    pass


async def test_an_agent_whose_password_is_taken_away_is_disconnected_at_the_reload(broker: Broker) -> None:
    async with broker.client(AGENT) as agent:
        _passwd(broker.mosquitto.directory, "-D", AGENT)
        broker.mosquitto.reload()
        with pytest.raises(aiomqtt.MqttError):
            await _until(agent, "nothing comes")


async def test_thousands_of_messages_outlast_a_stop_of_server_and_broker(
    tmp_path: Path,
) -> None:
    config = _install(tmp_path)
    payloads = [f"sample {number}" for number in range(2_500)]
    async with running_mosquitto(tmp_path, config) as mosquitto:
        broker = Broker(mosquitto)
        async with broker.client("server", clean=False) as server:
            await server.subscribe("pingup/v1/up/#", qos=1)
        async with broker.client(AGENT) as agent:
            for payload in payloads:
                await agent.publish(f"pingup/v1/up/{AGENT}/metrics", payload, qos=1)
    async with (
        running_mosquitto(tmp_path, config) as mosquitto,
        Broker(mosquitto).client("server", clean=False) as server,
    ):
        arrived = await _until(server, payloads[-1])
    assert [message.payload for message in arrived] == [payload.encode() for payload in payloads[:-1]]


async def test_a_packet_over_a_mebibyte_closes_the_connection(broker: Broker) -> None:
    topic = f"pingup/v1/up/{AGENT}/metrics"
    async with broker.client(AGENT) as agent, broker.client("server") as server:
        await server.subscribe("pingup/v1/up/#", qos=1)
        await agent.publish(topic, "x" * 1_000_000, qos=1)
        async with asyncio.TaskGroup() as group:
            too_large = group.create_task(agent.publish(topic, "y" * 1_048_576, qos=1))
            with pytest.raises(aiomqtt.MqttError):
                await _until(agent, "nothing comes")
            too_large.cancel()
        async with broker.client(OTHER) as other:
            await other.publish(f"pingup/v1/up/{OTHER}/metrics", "end", qos=1)
        arrived = await _until(server, "end")
    assert [message.payload for message in arrived] == [b"x" * 1_000_000]


async def test_the_tls_listener_works_and_binds_client_ids_once_its_lines_are_uncommented(
    tmp_path: Path,
) -> None:
    make_certificate(tmp_path)
    plain, _, commented = _install(tmp_path).partition("#listener 8883\n")
    above, _, _ = plain.partition("listener 1883")
    async with running_mosquitto(tmp_path, f"{above}{LISTENER}\n{commented.replace('#', '')}") as mosquitto:
        broker = Broker(mosquitto, ssl.create_default_context(cafile=tmp_path / "ca.crt"))
        async with broker.client(AGENT, client_id="one") as one:
            await one.publish(f"pingup/v1/up/{AGENT}/metrics", "over TLS", qos=1)
            async with broker.client(AGENT, client_id="two"):
                with pytest.raises(aiomqtt.MqttError):
                    await _until(one, "its session went to the second")


@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_missing_program_skips_a_test_and_fails_it_in_ci(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv(REQUIRE_ALL, required)
    with pytest.raises(outcome):
        find_program("a-broker-that-nobody-has")
