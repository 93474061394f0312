"""An agent's connection to a real broker: birth, will, samples, and coming back."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import aiomqtt
import pytest

from pingup.agent.identity import identity_of
from pingup.agent.link import Link
from pingup.agent.run import Agent
from pingup.clock import SystemClock
from pingup.errors import Unusable
from pingup.model import AgentKey, Algorithm, Sample, StatusReport, TelemetryReport
from pingup.signing import Signer, attach, new_seed, token_of, verify
from pingup.topics import Kind, up
from tests.agent.rig import (
    ID,
    KEY,
    LIMIT,
    OPEN_BROKER,
    SECRET,
    Cable,
    counting,
    now,
    rig,
    running_agent,
    running_server,
    settings_of,
    two_more,
    until,
)
from tests.mosquitto import HOST, LISTENER, LOG, find_program, running_mosquitto

pytestmark = pytest.mark.mosquitto


async def test_a_birth_names_session_version_and_interval(tmp_path: Path) -> None:
    async with rig(tmp_path, interval=7) as (server, *_):
        birth = await server.birth()
    assert birth.agent_id == ID
    assert birth.session
    assert birth.version == "0.1.0"
    assert birth.interval == 7


async def test_a_status_is_retained_for_whoever_comes_later(tmp_path: Path) -> None:
    async with rig(tmp_path) as (_, _, broker), aiomqtt.Client(HOST, broker) as late:
        await late.subscribe(up(ID, Kind.STATUS), qos=1)
        async with asyncio.timeout(LIMIT):
            message = await anext(late.messages)
    assert message.retain
    verify(message.payload, KEY)


async def test_a_broken_connection_brings_the_signed_will_of_the_same_session(tmp_path: Path) -> None:
    async with rig(tmp_path) as (server, cable, _):
        birth = await server.birth()
        cable.cut()
        will = await server.expect(StatusReport, lambda status: not status.online)
        assert will.session == birth.session
        assert will.sent_at <= birth.sent_at


async def test_a_stopped_agent_says_so_itself(tmp_path: Path) -> None:
    async with running_mosquitto(tmp_path, OPEN_BROKER) as broker, running_server(broker.port) as server:
        async with running_agent(settings_of(tmp_path, broker.port)):
            birth = await server.birth()
        farewell = await server.expect(StatusReport, lambda status: not status.online)
    assert farewell.session == birth.session
    assert farewell.sent_at > birth.sent_at


async def test_an_agent_that_comes_back_has_a_new_session(tmp_path: Path) -> None:
    async with rig(tmp_path) as (server, cable, _):
        first = await server.birth()
        cable.cut()
        await server.expect(StatusReport, lambda status: status.online and status.session != first.session)


async def test_samples_come_every_interval(tmp_path: Path) -> None:
    async with rig(tmp_path, interval=0.1) as (server, *_):
        first = (await server.sample()).records[0]
        second = (await server.sample(after=len(server.messages))).records[0]
    for sample in (first, second):
        assert isinstance(sample, Sample)
        assert sample.status == "online"
        assert sample.ram is not None
        assert 0 < sample.ram < 100
        assert sample.disk is not None
        assert sample.cpu is not None
        assert sample.latency is not None  # of the broker
    assert first.timestamp < second.timestamp


async def test_no_answer_is_a_latency_of_its_own(tmp_path: Path) -> None:
    with_nobody = f"{HOST}:1"
    async with rig(tmp_path, interval=0.1, latency__target=with_nobody) as (server, *_):
        sample = (await server.sample()).records[0]
    assert isinstance(sample, Sample)
    assert sample.latency is None


async def test_what_was_measured_while_the_broker_was_away_arrives_later(tmp_path: Path) -> None:
    async with (
        counting() as (target, measured),
        rig(tmp_path, interval=0.1, latency__target=target) as (server, cable, broker),
    ):
        cable.unplug()
        await server.expect(StatusReport, lambda status: not status.online)
        gone, seen = now(), len(server.messages)
        await two_more(measured)
        cable.plug(broker)
        birth = await server.birth(after=seen)
        await server.expect(TelemetryReport, lambda report: gone < report.sent_at < birth.sent_at, after=seen)


async def test_a_message_whose_answer_was_cut_off_is_sent_again_at_once(tmp_path: Path) -> None:
    async with (
        counting() as (target, measured),
        rig(tmp_path, interval=0.1, latency__target=target) as (server, cable, broker),
    ):
        await server.sample()
        cable.stall()
        stalled = now()
        await two_more(measured)
        cable.unplug()
        await server.expect(StatusReport, lambda status: not status.online)
        seen = len(server.messages)
        cable.plug(broker)
        # Far sooner than the time that an answer may take.
        await server.expect(TelemetryReport, lambda report: report.sent_at > stalled, after=seen)


async def test_a_message_is_given_up_only_when_its_session_is_over(tmp_path: Path) -> None:
    cable = Cable()
    async with running_mosquitto(tmp_path, OPEN_BROKER) as broker, cable.listening() as port:
        cable.plug(broker.port)
        settings = settings_of(tmp_path, port)
        link = Link(settings, identity_of(settings), SystemClock(), lambda: 60.0)
        async with link.session():
            client = link._client
            assert client is not None
            cable.cut()
            await until(client._disconnected.done)
            # The client knows already, while the session has not yet been wound up.
            assert not await link.publish(Kind.METRICS, b"{}")
            delivering = asyncio.create_task(link.deliver(Kind.METRICS, b"{}"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not delivering.done()
        async with asyncio.timeout(LIMIT):
            assert not await delivering


async def test_an_ed25519_agent_signs_with_its_key_and_obeys_the_servers(tmp_path: Path) -> None:
    seed, server_signer = new_seed(), Signer(new_seed())
    public_key = base64.b64decode(Signer(seed).public_key)
    key = AgentKey(ID, Algorithm.ED25519, None, public_key, b"")

    def by_key(body: bytes) -> bytes:
        return attach(body, server_signer.signature(body))

    async with running_mosquitto(tmp_path, OPEN_BROKER) as broker:
        settings = settings_of(
            tmp_path,
            broker.port,
            seed=base64.b64encode(seed).decode(),
            token="a token",
            server_public_key=server_signer.public_key,
        )
        async with running_server(broker.port, key, by_key) as server, running_agent(settings):
            await server.birth()
            assert (await server.run("ping"))[0] == "completed"
            await server.config(1, {"interval": 0.5})
            assert (await server.config_report(1)).applied
            await server.sample()


PASSWORDS = f"""# for tests
{LISTENER}
allow_anonymous false
password_file passwords
log_dest stderr
"""


def _set_password(directory: Path, password: str) -> None:
    program = find_program("mosquitto_passwd")
    subprocess.run([program, "-b", "-c", directory / "passwords", ID, password], check=True, timeout=LIMIT)


async def test_the_password_is_the_token_that_belongs_to_the_secret(tmp_path: Path) -> None:
    _set_password(tmp_path, token_of(SECRET))
    async with running_mosquitto(tmp_path, PASSWORDS) as broker:
        async with asyncio.timeout(LIMIT):
            await Agent(settings_of(tmp_path, broker.port, interval=0.1)).run_once()


async def test_an_agent_that_was_never_let_in_ends_with_a_clear_error(tmp_path: Path) -> None:
    _set_password(tmp_path, "another")
    async with running_mosquitto(tmp_path, PASSWORDS) as broker:
        with pytest.raises(Unusable, match="does not let 'edge-1' in") as refusal:
            async with asyncio.timeout(LIMIT):
                await Agent(settings_of(tmp_path, broker.port)).run()
    assert refusal.value.exit_code == 4


async def test_an_agent_that_was_let_in_before_goes_on_trying(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    _set_password(closed, "another")
    async with rig(tmp_path) as (server, cable, broker), running_mosquitto(closed, PASSWORDS) as refusing:
        cable.unplug()
        cable.plug(refusing.port)
        await until(lambda: (closed / LOG).read_text().count("not authorised") >= 2)
        cable.unplug()
        cable.plug(broker)
        await server.birth(after=len(server.messages))


async def test_an_agent_comes_back_after_a_restart_of_the_broker(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    cable = Cable()
    async with cable.listening() as port, AsyncExitStack() as stack:
        async with running_mosquitto(tmp_path, OPEN_BROKER) as broker, running_server(broker.port) as server:
            cable.plug(broker.port)
            await stack.enter_async_context(running_agent(settings_of(tmp_path, port)))
            await server.birth()
        cable.unplug()
        async with running_mosquitto(fresh, OPEN_BROKER) as broker, running_server(broker.port) as server:
            cable.plug(broker.port)
            await server.birth()
            await stack.aclose()
