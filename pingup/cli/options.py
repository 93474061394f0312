"""The flags that the server's commands share; each one is a setting by its dotted name."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import click

from pingup.settings import LogFormat, LogLevel, Settings, load

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS = {
    "data_dir": "data_dir",
    "http_host": "http.host",
    "http_port": "http.port",
    "mqtt_host": "mqtt.host",
    "mqtt_port": "mqtt.port",
    "mqtt_url": "mqtt.url",
    "control_url": "mqtt.control_url",
    "log_level": "log.level",
    "log_format": "log.format",
}


def server_options(command: F) -> F:
    """Add the server's flags to a command. Their values are read as settings are: a bad one is one line."""
    options = (
        click.option("--config", type=click.Path(path_type=Path), help="A TOML file with settings."),
        click.option(
            "--data-dir", type=click.Path(path_type=Path), help="Where data is kept. [./pingup-data]"
        ),
        click.option("--http-host", help="Where REST listens. [127.0.0.1]"),
        click.option("--http-port", metavar="PORT", help="Port of REST, 0 for a free one. [8787]"),
        click.option("--mqtt-host", help="Where the embedded broker listens. [127.0.0.1]"),
        click.option("--mqtt-port", metavar="PORT", help="Port of the broker, 0 for a free one. [1883]"),
        click.option("--mqtt-url", metavar="URL", help="A broker elsewhere, in place of the embedded one."),
        click.option("--log-level", metavar=_choice(LogLevel), help="[info]"),
        click.option("--log-format", metavar=_choice(LogFormat), help="[text]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _choice(values: type[StrEnum]) -> str:
    return f"[{'|'.join(values)}]"


def read_settings(flags: dict[str, Any], **defaults: Any) -> Settings:
    """The settings out of a command's flags, the environment and the configuration file.

    Args:
        flags: what `server_options` gave the command.
        defaults: settings by dotted name that count when the user gave none.
    """
    given = {name: flags.get(name) for name in _FLAGS}
    named = {_FLAGS[name]: value for name, value in given.items() if value is not None}
    return load(flags=named, environ=os.environ, config=flags.get("config"), defaults=defaults)
