"""The agent's settings: flags > `PINGUP_AGENT_*` environment > a TOML file > defaults.

Nested names join with two underscores in the environment (`PINGUP_AGENT_SCAN__RANGES`), lists are written
with commas there. A secret may stand in a file instead (`secret_file`), and is never a flag by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from pingup.agent.probe import Address
from pingup.agent.scan import check_ranges
from pingup.discreet import without
from pingup.errors import Unusable
from pingup.settings import LogLevel
from pingup.sources import USAGE, in_words, nest, read_toml
from pingup.topics import is_agent_id

PREFIX = "PINGUP_AGENT_"

Interval = Annotated[float, Meta(ge=0.1, le=86400)]
ScanInterval = Annotated[float, Meta(ge=1, le=604800)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Texts = tuple[Annotated[str, Meta(min_length=1)], ...]


# --- what may be changed from afar -------------------------------------------------------------------


class LatencyTuning(msgspec.Struct, frozen=True):
    """What latency is measured to: `target` is `host:port`, None stands for the broker itself.

    `icmp` needs the package icmplib and the right to send echo requests; without them it is `tcp`.
    """

    target: str | None = None
    method: Literal["tcp", "icmp"] = "tcp"


class ScanTuning(msgspec.Struct, frozen=True):
    """What is scanned: networks in CIDR notation, TCP ports, and how often in seconds (None: on command)."""

    ranges: Texts = ()
    ports: Annotated[tuple[Port, ...], Meta(min_length=1)] = (22, 80, 443, 8080)
    interval: ScanInterval | None = None


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that the server may change: by a configuration or by the command `update_config`.

    `interval` is seconds between samples, `disk` the path whose file system is measured.
    """

    interval: Interval = 10.0
    disk: str = "/"
    latency: LatencyTuning = LatencyTuning()
    scan: ScanTuning = ScanTuning()


# --- what only the device decides --------------------------------------------------------------------


class LatencySettings(LatencyTuning, frozen=True, forbid_unknown_fields=True):
    """As given on the device."""


class ScanSettings(ScanTuning, frozen=True, forbid_unknown_fields=True):
    """As given on the device; `within` are the networks outside of which the server can't make it scan.

    Without `within`, those are the device's own `ranges`.
    """

    within: Texts = ()

    @property
    def ceiling(self) -> Texts:
        return self.within or self.ranges


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which services the command `restart_service` may restart, and the program that does it."""

    allowed: Texts = ()
    command: Annotated[Texts, Meta(min_length=1)] = ("systemctl", "restart")
    timeout: Annotated[float, Meta(gt=0, le=3600)] = 60.0


class ExecuteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which programs the command `execute` may start: none unless named here, each exactly as named.

    `timeout` is seconds; of each output stream `max_output` bytes are kept.
    """

    programs: Texts = ()
    timeout: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    max_output: Annotated[int, Meta(ge=0, le=32768)] = 16384


class ReconnectSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds: a new attempt waits at random up to `first`, which doubles each time up to `limit`."""

    first: Annotated[float, Meta(gt=0)] = 2.0
    limit: Annotated[float, Meta(gt=0)] = 60.0


class SpoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much is kept for the server at most, and how what has waited is sent.

    `rate` is messages a second that are sent of those that waited through an outage. What has no receipt
    after `resend` seconds is sent again, then after twice that time, and so on up to an hour.
    """

    max_messages: Annotated[int, Meta(ge=1, le=100_000_000)] = 100_000
    max_bytes: Annotated[int, Meta(ge=1024 * 1024)] = 256 * 1024 * 1024
    rate: Annotated[float, Meta(ge=0.1, le=100_000)] = 200.0
    resend: Annotated[float, Meta(ge=0.01, le=3600)] = 60.0


class AgentSettings(Tuning, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of an agent's settings.

    An hmac agent has a `secret`. An Ed25519 agent has a `seed` (base64 of 32 bytes), the `token` that it was
    given and the `server_public_key` that commands are checked with.
    """

    id: str = ""
    url: str = ""
    ca_file: Path | None = None
    secret: str | None = None
    secret_file: Path | None = None
    seed: str | None = None
    seed_file: Path | None = None
    token: str | None = None
    token_file: Path | None = None
    server_public_key: str | None = None
    data_dir: Path | None = None
    log_level: LogLevel = LogLevel.INFO
    latency: LatencySettings = LatencySettings()
    scan: ScanSettings = ScanSettings()
    services: ServiceSettings = ServiceSettings()
    execute: ExecuteSettings = ExecuteSettings()
    reconnect: ReconnectSettings = ReconnectSettings()
    spool: SpoolSettings = SpoolSettings()

    def __repr__(self) -> str:
        return without(self, *_SECRETS)

    @property
    def home(self) -> Path:
        """The directory that is the agent's own; agents of different ids never share one by default."""
        return self.data_dir or Path("pingup-agent") / self.id

    @property
    def broker(self) -> Address:
        parts = urlsplit(self.url)
        return Address(parts.hostname or "", parts.port or (8883 if self.is_tls else 1883))

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("mqtts:")


_SECRETS = ("secret", "seed", "token")


def load(
    *, flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None = None
) -> AgentSettings:
    """Settings out of the three sources, the first one that names a value wins.

    Args:
        flags: values by dotted name (`scan.ranges`); None counts as not given.
        environ: the environment; only `PINGUP_AGENT_*` is read.
        config: a TOML file.

    Raises:
        Unusable: an unknown name or a bad value (exit code 2); the text names it.
    """
    values: dict[str, Any] = {}
    if config is not None:
        _merge(values, read_toml(config))
    _merge(values, _read_environ(environ))
    _merge(values, nest(flags))
    try:
        settings = msgspec.convert(values, AgentSettings, strict=False, dec_hook=_read_path)
        check(settings)
    except msgspec.ValidationError as problem:
        raise Unusable(f"bad setting {in_words(problem)}", USAGE) from problem
    except ValueError as problem:
        raise Unusable(f"bad setting {problem}", USAGE) from problem
    return settings


def check(settings: AgentSettings) -> None:
    """What types alone don't say.

    Raises:
        ValueError: a value that can't be; the text begins with its name.
    """
    if not is_agent_id(settings.id):
        raise ValueError(f"id: {settings.id!r} can't name an agent; give the id that it is registered under")
    _check_url(settings.url)
    _check_ranges("scan.within", settings.scan.within)
    check_tuning(settings, settings.scan.ceiling)


def check_tuning(tuning: Tuning, ceiling: Texts) -> None:
    """Whether the settings that come from afar make sense, and stay within what the device allows.

    Raises:
        ValueError: a value that can't be; the text begins with its name.
    """
    if tuning.latency.target is not None:
        parse_address(tuning.latency.target)
    try:
        check_ranges(tuning.scan.ranges, tuning.scan.ports, ceiling)
    except ValueError as problem:
        raise ValueError(f"scan.ranges: {problem}") from problem


def parse_address(text: str) -> Address:
    """`host:port` or `[::1]:port`.

    Raises:
        ValueError: it is anything else.
    """
    try:
        parts = urlsplit(f"//{text}")
        if parts.hostname and parts.port and parts.netloc == text and "@" not in text:
            return Address(parts.hostname, parts.port)
    except ValueError:  # a port that is no number, a bracket that is not closed
        pass
    raise ValueError(f"latency.target: {text!r} is no address like 192.0.2.1:443")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("mqtt", "mqtts") and bool(parts.hostname) and parts.port != 0
        bare = parts.username is None and parts.path in ("", "/") and not parts.query
    except ValueError:
        is_good = bare = False
    if not (is_good and bare):
        raise ValueError(f"url: {url!r} is no address like mqtt://host:1883 or mqtts://host:8883")


def _check_ranges(name: str, ranges: Texts) -> None:
    try:
        check_ranges((), (1,), ranges)
    except ValueError as problem:
        raise ValueError(f"{name}: {problem}") from problem


_LISTS = frozenset(
    {"scan.ranges", "scan.ports", "scan.within", "services.allowed", "services.command", "execute.programs"}
)


def _read_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX).lower().replace("__", ".")
            values[name] = [item.strip() for item in text.split(",")] if name in _LISTS else text
    return nest(values)


def _merge(values: dict[str, Any], newer: Mapping[str, Any]) -> None:
    """Lay newer values over the older ones; a newer secret also replaces an older file with one."""
    for name in _SECRETS:
        if name in newer and f"{name}_file" in newer:
            raise Unusable(f"give either {name} or {name}_file, not both", USAGE)
        if name in newer or f"{name}_file" in newer:
            values.pop(name, None)
            values.pop(f"{name}_file", None)
    for name, value in newer.items():
        if isinstance(value, Mapping) and isinstance(values.get(name), dict):
            values[name].update(value)
        else:
            values[name] = dict(value) if isinstance(value, Mapping) else value


def _read_path(wanted: type, value: Any) -> Any:
    if wanted is Path and isinstance(value, str | Path):
        return Path(value)
    raise ValueError(f"cannot read {value!r}")
