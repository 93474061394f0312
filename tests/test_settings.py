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
