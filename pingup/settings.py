"""Settings, read once and frozen: flags > `PINGUP_*` environment > `--config FILE` (TOML) > defaults.

Nested names join with two underscores in the environment (`PINGUP_HTTP__PORT`). A secret may stand in a
file instead: `PINGUP_ADMIN_TOKEN_FILE` names the file that `PINGUP_ADMIN_TOKEN` would hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pingup.access import SERVER_USER
from pingup.broker_url import BrokerUrl, parse_broker_url
from pingup.discreet import without
from pingup.errors import Unusable
from pingup.sources import USAGE, in_words, nest, read_toml

PREFIX = "PINGUP_"

Port = Annotated[int, Meta(ge=0, le=65535)]


_SHORTEST_SESSION = timedelta(days=1)


class Duration(timedelta):
    """A length of time that is written like `30d`."""


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class LiveSamples(StrEnum):
    """Which samples are shown live: what somebody may be watching, all, a snapshot a second, or none."""

    WATCHED = "watched"
    ALWAYS = "always"
    SAMPLED = "sampled"
    OFF = "off"


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of settings by name. A secret of that name in any of them is in no repr."""

    def __repr__(self) -> str:
        return without(self, "admin_token", "token", "url", "control_url")


class HttpSettings(_Section, frozen=True):
    """Where REST listens. Port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: Port = 8787


def _check_url(name: str, text: str) -> None:
    try:
        parse_broker_url(text)
    except ValueError as problem:
        raise ValueError(f"{name} {problem}") from problem


class MqttSettings(_Section, frozen=True):
    """Where the embedded broker listens (port 0 takes a free one), or `url` of a broker elsewhere.

    `session_expiry` is how long that broker keeps what waits for the server. `control_url` is an
    administrator's way into a Mosquitto with dynamic security, to bring accounts there. `live` says which
    samples are published for those who watch.
    """

    mode: Literal["embedded", "external"] = "embedded"
    host: str = "127.0.0.1"
    port: Port = 1883
    url: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    client_id: Annotated[str, Meta(min_length=1, max_length=128)] = "server"
    session_expiry: Duration = Duration(days=7)
    control_url: str | None = None
    live: LiveSamples = LiveSamples.WATCHED

    def __post_init__(self) -> None:
        for name, text in (("url", self.url), ("control_url", self.control_url)):
            if text is not None:
                _check_url(name, text)
        if self.session_expiry < _SHORTEST_SESSION:
            raise ValueError("session_expiry must be at least 1d")

    @property
    def broker(self) -> BrokerUrl | None:
        """The broker elsewhere; None for the embedded one."""
        return None if self.url is None else parse_broker_url(self.url)

    @property
    def control(self) -> BrokerUrl | None:
        """Where accounts are brought to, and how to log in there."""
        return None if self.control_url is None else parse_broker_url(self.control_url)


class SecuritySettings(_Section, frozen=True):
    """How old and how far ahead a timestamp may be, and what the specification's first agents need."""

    max_past: Duration = Duration(days=30)
    max_future: Duration = Duration(minutes=5)
    secret_as_bearer: bool = False
    unsigned_results: bool = False


class InternalSettings(_Section, frozen=True):
    """For brokers that ask over HTTP who may come in: without a token nobody can ask."""

    token: str | None = None


class LogSettings(_Section, frozen=True):
    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.TEXT


class StorageSettings(_Section, frozen=True):
    """Whether small deposits go into a journal first, and into `analytics.duckdb` within a second."""

    journal: bool = False


class RetentionSettings(_Section, frozen=True):
    """How long telemetry is kept."""

    metrics: Duration = Duration(days=90)
    discovery: Duration = Duration(days=90)


class PresenceSettings(_Section, frozen=True):
    """An agent that names no interval is offline after this long without a message."""

    offline_after: Duration = Duration(minutes=5)


class Settings(_Section, frozen=True):
    """All of the server's settings."""

    data_dir: Path = Path("pingup-data")
    admin_token: str | None = None
    http: HttpSettings = HttpSettings()
    mqtt: MqttSettings = MqttSettings()
    security: SecuritySettings = SecuritySettings()
    internal: InternalSettings = InternalSettings()
    log: LogSettings = LogSettings()
    storage: StorageSettings = StorageSettings()
    retention: RetentionSettings = RetentionSettings()
    presence: PresenceSettings = PresenceSettings()


_SECRETS = frozenset({"admin_token", "internal.token", "mqtt.url", "mqtt.control_url"})


def load(
    *,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    config: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings out of the three sources, the first one that names a value wins.

    Args:
        flags: values by dotted name (`http.port`); None counts as not given.
        environ: the environment; only `PINGUP_*` is read.
        config: a TOML file.
        defaults: by dotted name, what counts in place of the usual defaults.

    Raises:
        Unusable: an unknown name or a bad value; the text names it and where it came from.
    """
    values: dict[str, Any] = {}
    _merge(values, nest(defaults or {}), "the defaults")
    if config is not None:
        _merge(values, read_toml(config), str(config))
    _merge(values, _read_environ(environ), "the environment")
    _merge(values, nest(flags), "the flags")
    settings = _convert(values, "the settings")
    _check_token("PINGUP_ADMIN_TOKEN", settings.admin_token)
    _check_token("internal.token", settings.internal.token)
    _check_mqtt(settings.mqtt)
    return settings


def _read_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, str] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower().replace("__", ".")
        if name.removesuffix("_file") in _SECRETS and name.endswith("_file"):
            values.setdefault(name.removesuffix("_file"), _read_secret(variable, text))
        elif _is_known(name):
            values[name] = text
    return nest(values)


def _is_known(name: str) -> bool:
    """Whether a variable is one of ours; the agent's and the tests' share the prefix."""
    section, _, field = name.partition(".")
    fields = {entry.encode_name: entry for entry in msgspec.structs.fields(Settings)}
    if section not in fields:
        return False
    inner = fields[section].type
    if not (isinstance(inner, type) and issubclass(inner, _Section)):
        return not field
    if not field:
        return False
    if field not in inner.__struct_fields__:
        raise Unusable(f"there is no setting {name} (from {PREFIX}{name.upper().replace('.', '__')})", USAGE)
    return True


def _read_secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise Unusable(f"cannot read the file {path} that {variable} names: {problem}", USAGE) from problem


def _merge(values: dict[str, Any], newer: Mapping[str, Any], origin: str) -> None:
    """Lay newer values over the older ones; each source is checked by itself, so that it can be named."""
    _convert(newer, origin)
    for name, value in newer.items():
        if isinstance(value, Mapping):
            values.setdefault(name, {}).update(value)
        else:
            values[name] = value


def _convert(values: Mapping[str, Any], origin: str) -> Settings:
    try:
        return msgspec.convert(values, Settings, strict=False, dec_hook=_read_custom)
    except msgspec.ValidationError as problem:
        raise Unusable(f"bad setting in {origin}: {in_words(problem)}", USAGE) from problem


def _read_custom(wanted: type, value: Any) -> Any:
    """Types that the parser doesn't know by itself."""
    if isinstance(value, wanted):
        return value
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is Duration and isinstance(value, str):
        return parse_duration(value)
    raise ValueError(f"cannot read {value!r}")


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_LONGEST = timedelta(days=36_500)


def parse_duration(text: str) -> Duration:
    """A duration as people write it: `90s`, `5m`, `1h`, `30d`, `2w`.

    Raises:
        ValueError: it is anything else, or none at all, or longer than a calendar.
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST.total_seconds():
        raise ValueError(f"{text!r} is no duration like 90s, 5m, 1h or 30d")
    return Duration(seconds=seconds)


def is_admin_token(text: str) -> bool:
    """Whether it is long enough to be one: 32 or more visible ASCII characters."""
    return re.fullmatch(r"[\x21-\x7e]{32,}", text) is not None


def _check_token(name: str, token: str | None) -> None:
    if token is not None and not is_admin_token(token):
        raise Unusable(f"{name} must have 32 or more visible ASCII characters", USAGE)


def _check_mqtt(mqtt: MqttSettings) -> None:
    """What the settings of a broker elsewhere demand of one another."""
    broker = mqtt.broker
    if mqtt.control_url is not None:
        _check_own_account(broker)
    if mqtt.mode == "external" and broker is None:
        raise Unusable("mqtt.mode is external: mqtt.url must say where the broker is", USAGE)
    if mqtt.key_file is not None and mqtt.cert_file is None:
        raise Unusable("mqtt.key_file needs mqtt.cert_file", USAGE)
    for name in ("ca_file", "cert_file", "key_file"):
        path: Path | None = getattr(mqtt, name)
        if path is None:
            continue
        if broker is None or not broker.tls:
            raise Unusable(f"mqtt.{name} needs an mqtts:// address in mqtt.url", USAGE)
        _check_readable(f"mqtt.{name}", path)


def _check_own_account(broker: BrokerUrl | None) -> None:
    """Who brings accounts to a broker brings the server's own."""
    if broker is None or broker.password is None:
        raise Unusable("mqtt.control_url needs mqtt.url with the server's own user name and password", USAGE)
    if broker.username not in (None, SERVER_USER):
        # Any other name could be an agent's.
        raise Unusable(f"with mqtt.control_url the user in mqtt.url must be {SERVER_USER}", USAGE)


def _check_readable(name: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as problem:
        raise Unusable(f"cannot read the file {path} of {name}: {problem.strerror}", USAGE) from problem
