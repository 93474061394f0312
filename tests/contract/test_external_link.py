"""The way to a broker elsewhere: TLS, names, and what is told when it can't be reached."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import mqtt5
import pytest

from pingup import app
from pingup.brokers.session import Credentials, Tls, client
from pingup.errors import Unusable
from pingup.services.agents import Registration
from pingup.settings import HttpSettings, MqttSettings, Settings
from pingup.topics import Live, down_config, live
from tests.certificates import Certificates, make_certificates
from tests.contract.external_rig import a_mosquitto, device, hear, linked, publish
from tests.mosquitto import Mosquitto, find_program
from tests.session.peer import HOST, ScriptedBroker

pytestmark = pytest.mark.mosquitto


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "full_jitter", lambda *_: 0.01)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"), find_program("openssl"))


@pytest.fixture
async def secure(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Mosquitto]:
    async with a_mosquitto(tmp_path / "m", certificates.mosquitto()) as running:
        yield running


@pytest.fixture
async def strict(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Mosquitto]:
    config = certificates.mosquitto() + "require_certificate true\n"
    async with a_mosquitto(tmp_path / "m", config) as running:
        yield running


async def test_a_broker_with_a_certificate_of_our_authority_is_trusted(
    secure: Mosquitto, certificates: Certificates
) -> None:
    async with linked(secure.port, tls=Tls(certificates.authority)) as link:
        assert await link.external.deliver("pingup/v1/down/A/commands", b"x") is False


async def test_a_certificate_of_an_unknown_authority_is_not_trusted(
    secure: Mosquitto, certificates: Certificates
) -> None:
    for authority in (certificates.stranger, None):
        async with linked(secure.port, is_up=False, tls=Tls(authority)) as link:
            await link.fails("the broker's certificate is not trusted")


async def test_a_certificate_for_another_host_is_refused(
    secure: Mosquitto, certificates: Certificates
) -> None:
    async with linked(secure.port, is_up=False, host="localhost", tls=Tls(certificates.authority)) as link:
        await link.fails("the host name doesn't match the broker's certificate")


async def test_a_client_certificate_is_shown(strict: Mosquitto, certificates: Certificates) -> None:
    tls = Tls(certificates.authority, certificates.client, certificates.client_key)
    async with linked(strict.port, tls=tls) as link:
        assert link.external.problem is None


async def test_a_missing_client_certificate_is_told(strict: Mosquitto, certificates: Certificates) -> None:
    async with linked(strict.port, is_up=False, tls=Tls(certificates.authority)) as link:
        await link.fails("client certificate")


async def test_tls_on_a_plain_port_is_told(tmp_path: Path, certificates: Certificates) -> None:
    async with (
        a_mosquitto(tmp_path / "m") as plain,
        linked(plain.port, is_up=False, tls=Tls(certificates.authority)) as link,
    ):
        await link.fails("perhaps only one side expects TLS")


async def test_plain_text_on_a_tls_port_is_told(secure: Mosquitto) -> None:
    async with linked(secure.port, is_up=False) as link:
        await link.fails("perhaps only one side expects TLS")


@pytest.mark.parametrize("bad", ["authority", "client", "encrypted"])
async def test_files_that_are_no_certificates_end_the_start_in_one_line(
    tmp_path: Path, certificates: Certificates, bad: str
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    tls = {
        "authority": Tls(nonsense),
        "client": Tls(certificates.authority, certificates.client, nonsense),
        "encrypted": Tls(certificates.authority, certificates.client, certificates.encrypted_key),
    }[bad]
    what = "CA file" if bad == "authority" else "client certificate or its key"
    with pytest.raises(Unusable, match=f"the {what} cannot be used") as caught:
        async with linked(1, is_up=False, tls=tls):
            pass
    assert caught.value.exit_code == 2


async def test_a_wrong_password_is_told_once_and_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedBroker.open() as broker:
        credentials = Credentials("server", "geheim")
        async with linked(broker.port, is_up=False, credentials=credentials) as link:
            for _ in range(3):
                peer = await broker.peer()
                await peer.expect(mqtt5.ConnectPacket)
                peer.send(mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD))
            await link.fails(f"cannot connect to {HOST}:{broker.port}: bad user name or password")
    assert caplog.text.count("bad user name or password") == 1
    assert "geheim" not in caplog.text


async def test_a_session_that_somebody_takes_over_is_told() -> None:
    async with ScriptedBroker.open() as broker, linked(broker.port, is_up=False, leave_within=0.05) as link:
        peer = await broker.peer()
        await peer.welcome()
        await peer.grant()
        await link.connects()
        peer.send(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER))
        await link.fails("session taken over by another client with the same id")


async def test_a_broker_that_keeps_the_session_for_less_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with ScriptedBroker.open() as broker, linked(broker.port, is_up=False, leave_within=0.05) as link:
        peer = await broker.peer()
        await peer.welcome(session_expiry_interval=60)
        await peer.grant()
        await link.connects()
    assert "keeps what waits for the server for 60 s only" in caplog.text


async def test_an_unencrypted_way_over_the_network_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with linked(1, is_up=False, host="192.0.2.1"):
        pass
    assert caplog.text.count("not encrypted") == 1
    caplog.clear()
    for host in ("127.0.0.1", "::1", "localhost"):
        async with linked(1, is_up=False, host=host):
            pass
    assert "not encrypted" not in caplog.text


async def test_a_session_is_subscribed_again_when_the_broker_has_forgotten_it(tmp_path: Path) -> None:
    async with a_mosquitto(tmp_path / "one") as first:
        port = first.port
    async with linked(port, is_up=False) as link:
        for count, name in enumerate(("one", "two"), start=1):
            async with a_mosquitto(tmp_path / name, port=port):
                await link.connects(count)
                await publish(port, ("pingup/v1/up/A/metrics", b"x"))
                await link.ingest.took(count)
    assert link.sessions == [False, False]


async def test_its_life_is_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with a_mosquitto(tmp_path / "m") as mosquitto, linked(mosquitto.port):
        pass
    assert f"connected to the broker at {HOST}:{mosquitto.port}" in caplog.text
    # A stop is no problem.
    assert "no connection" not in caplog.text


async def test_a_broker_that_forgot_what_it_retained_is_told_again(tmp_path: Path) -> None:
    topics = {down_config("A"), live("A", Live.PRESENCE)}
    async with AsyncExitStack() as stack:
        async with a_mosquitto(tmp_path / "m") as before:
            url = f"mqtt://server:x@{HOST}:{before.port}"
            settings = Settings(
                data_dir=tmp_path / "data", http=HttpSettings(port=0), mqtt=MqttSettings(url=url)
            )
            pingup = await stack.enter_async_context(app.serve(settings))
            await pingup.services.agents.register(Registration(id="A", metadata={}, tags=()))
            await pingup.services.configs.set("A", {"interval": 5})
            assert await _retained(before.port, topics)
            # As a crash does that comes between two saves; the session of the server is kept.
            await publish(before.port, *((topic, b"") for topic in topics), retain=True)
        async with a_mosquitto(tmp_path / "m", port=before.port) as after:
            assert await _retained(after.port, topics)
            await stack.aclose()


async def _retained(port: int, topics: set[str]) -> bool:
    async with device(port, "person") as person:
        for topic in topics:
            await person.subscribe(topic)
        return {topic for topic, *_ in await hear(person, len(topics))} == topics
