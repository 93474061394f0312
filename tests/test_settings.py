"""Settings come from flags, environment, file and defaults, in that order; a bad one is named in one line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pingup.errors import Unusable
from pingup.settings import LogLevel, Settings, load, parse_duration

TOKEN = "t" * 32


def read(
    flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None, config: Path | None = None
) -> Settings:
    return load(flags=flags or {}, environ=environ or {}, config=config)


def test_the_defaults_are_the_promised_ones() -> None:
    settings = read()
    assert settings.data_dir == Path("pingup-data")
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8787)
    assert (settings.mqtt.host, settings.mqtt.port) == ("127.0.0.1", 1883)
    assert settings.security.max_past == timedelta(days=30)
    assert settings.security.max_future == timedelta(minutes=5)
    assert settings.retention.metrics == settings.retention.discovery == timedelta(days=90)
    assert not settings.security.secret_as_bearer
    assert not settings.security.unsigned_results
    assert settings.log.level is LogLevel.INFO


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "pingup.toml"
    config.write_text('data_dir = "/file"\n[http]\nport = 1\nhost = "file"\n[mqtt]\nport = 1\n')
    environ = {"PINGUP_HTTP__PORT": "2", "PINGUP_MQTT__PORT": "2"}
    settings = read({"http.port": 3, "data_dir": None}, environ, config)
    assert (settings.http.port, settings.mqtt.port, settings.http.host) == (3, 2, "file")
    assert settings.data_dir == Path("/file")


def test_durations_switches_and_paths_are_read_from_text() -> None:
    settings = read(
        environ={
            "PINGUP_SECURITY__MAX_PAST": "7d",
            "PINGUP_SECURITY__SECRET_AS_BEARER": "true",
            "PINGUP_DATA_DIR": "/var/lib/pingup",
            "PINGUP_LOG__LEVEL": "debug",
        }
    )
    assert settings.security.max_past == timedelta(days=7)
    assert settings.security.secret_as_bearer
    assert settings.data_dir == Path("/var/lib/pingup")
    assert settings.log.level is LogLevel.DEBUG


def test_the_admin_token_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    assert read(environ={"PINGUP_ADMIN_TOKEN_FILE": str(path)}).admin_token == TOKEN
    assert read(environ={"PINGUP_ADMIN_TOKEN": TOKEN}).admin_token == TOKEN


def test_the_address_of_a_broker_elsewhere_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("mqtts://pingup:p%40ss%2Fword@broker.example\n")
    for environ in ({"PINGUP_MQTT__URL_FILE": str(path)}, {"PINGUP_MQTT__URL": path.read_text()}):
        broker = read(environ=environ).mqtt.broker
        assert broker is not None
        assert (broker.host, broker.port, broker.tls) == ("broker.example", 8883, True)
        assert (broker.username, broker.password) == ("pingup", "p@ss/word")


def test_a_broker_elsewhere_has_the_promised_defaults() -> None:
    assert read().mqtt.broker is None
    mqtt = read({"mqtt.url": "mqtt://[::1]"}).mqtt
    assert mqtt.broker is not None
    assert (mqtt.broker.host, mqtt.broker.port, str(mqtt.broker)) == ("::1", 1883, "mqtt://[::1]:1883")
    assert (mqtt.client_id, mqtt.session_expiry) == ("server", timedelta(days=7))


def test_files_for_tls_are_taken_with_an_address_that_wants_tls(tmp_path: Path) -> None:
    pem = tmp_path / "pem"
    pem.touch()
    files = {"mqtt.ca_file": pem, "mqtt.cert_file": pem, "mqtt.key_file": pem}
    assert read({"mqtt.url": "mqtts://broker", **files}).mqtt.ca_file == pem


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"mqtt.mode": "external"}, "mqtt.url must say where the broker is"),
        ({"mqtt.url": "http://broker"}, "url is no address like mqtt://"),
        ({"mqtt.url": "mqtt://server:geheim@broker/path"}, "url is no address like mqtt://"),
        ({"mqtt.url": "mqtt://server:ge#heim@broker"}, "url is no address like mqtt://"),
        ({"mqtt.url": "mqtt://server:geheim@broker:port"}, "url is no address like mqtt://"),
        ({"mqtt.url": "mqtt://server:geheim@[::1"}, "mqtt"),
        (
            {"mqtt.url": "mqtts://b", "mqtt.ca_file": Path("/none.pem")},
            "cannot read the file /none.pem of mqtt.ca_file",
        ),
        (
            {"mqtt.url": "mqtt://b", "mqtt.ca_file": Path("/none.pem")},
            "mqtt.ca_file needs an mqtts:// address",
        ),
        ({"mqtt.cert_file": Path("/none.pem")}, "mqtt.cert_file needs an mqtts:// address"),
        ({"mqtt.url": "mqtts://b", "mqtt.key_file": Path("/none.pem")}, "mqtt.key_file needs mqtt.cert_file"),
        ({"mqtt.session_expiry": "23h"}, "session_expiry must be at least 1d"),
        ({"mqtt.client_id": ""}, "mqtt.client_id"),
    ],
)
def test_bad_settings_of_a_broker_elsewhere_are_told_without_its_password(
    flags: dict[str, Any], words: str
) -> None:
    with pytest.raises(Unusable, match=words) as caught:
        read(flags)
    assert "heim" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_variables_of_other_programs_with_our_prefix_are_left_alone() -> None:
    assert read(environ={"PINGUP_AGENT_ID": "a", "PINGUP_REQUIRE_ALL": "1", "OTHER": "x"}) == Settings()


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"PINGUP_HTTP__PORT": "web"}, "http.port"),
        ({"PINGUP_HTTP__PORT": "65536"}, "http.port"),
        ({"PINGUP_HTTP__PROT": "1"}, "http.prot"),
        ({"PINGUP_MQTT__MODE": "magic"}, "mqtt.mode"),
        ({"PINGUP_SECURITY__MAX_PAST": "soon"}, "security.max_past"),
        ({"PINGUP_SECURITY__MAX_PAST": "0s"}, "security.max_past"),
        ({"PINGUP_SECURITY__SECRET_AS_BEARER": "maybe"}, "security.secret_as_bearer"),
        ({"PINGUP_LOG__LEVEL": "loud"}, "log.level"),
        ({"PINGUP_ADMIN_TOKEN": "short"}, "PINGUP_ADMIN_TOKEN"),
        ({"PINGUP_ADMIN_TOKEN": "with a space" + TOKEN}, "PINGUP_ADMIN_TOKEN"),
        ({"PINGUP_ADMIN_TOKEN_FILE": "/nonexistent/token"}, "/nonexistent/token"),
    ],
)
def test_a_bad_variable_is_named_in_one_line(environ: dict[str, str], word: str) -> None:
    with pytest.raises(Unusable) as caught:
        read(environ=environ)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["http = 1", "[http]\nprot = 1", "nonsense", "[http]\nport = 'x'", "x = 1"])
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    config = tmp_path / "pingup.toml"
    config.write_text(text)
    with pytest.raises(Unusable) as caught:
        read(config=config)
    assert str(config) in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"none\.toml"):
        read(config=tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("30d", 2592000), ("2w", 1209600)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: int) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1.5h", "1y", "0h", "999999999w", "١h"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


BROKER = "mqtt://server:password@localhost"


def test_how_an_administrator_gets_into_the_broker_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "control"
    file.write_text("mqtts://admin:s3cret@broker:8884\n")
    environ = {"PINGUP_MQTT__CONTROL_URL_FILE": str(file), "PINGUP_MQTT__URL": BROKER}
    control = load(flags={}, environ=environ).mqtt.control
    assert control is not None
    assert (control.host, control.port, control.tls) == ("broker", 8884, True)
    assert (control.username, control.password) == ("admin", "s3cret")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"mqtt.control_url": "mqtt://a:s3cret@h/x", "mqtt.url": BROKER}, "control_url is no address"),
        ({"mqtt.control_url": "mqtt://a:s3cret@h"}, "needs mqtt.url"),
        ({"mqtt.control_url": "mqtt://a:s3cret@h", "mqtt.url": "mqtt://server@h"}, "needs mqtt.url"),
        ({"mqtt.control_url": "mqtt://a:s3cret@h", "mqtt.url": "mqtt://x:p@h"}, "must be server"),
        ({"internal.token": "too short"}, "internal.token must have 32 or more visible ASCII characters"),
        ({"internal.token": "é" * 40}, "internal.token must have 32 or more visible ASCII characters"),
    ],
)
def test_settings_for_brokers_elsewhere_are_checked(settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(Unusable, match=complaint) as refusal:
        load(flags=settings, environ={})
    assert refusal.value.exit_code == 2
    assert "s3cret" not in str(refusal.value)


def test_the_token_of_brokers_that_ask_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("x" * 40 + "\n")
    settings = load(flags={}, environ={"PINGUP_INTERNAL__TOKEN_FILE": str(file)})
    assert settings.internal.token == "x" * 40
    assert load(flags={}, environ={}).internal.token is None
