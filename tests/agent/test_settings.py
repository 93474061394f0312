"""The agent's settings out of file, environment and flags, and the keys that they name."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from pingup.agent.identity import identity_of
from pingup.agent.probe import Address
from pingup.agent.settings import AgentSettings, load, parse_address
from pingup.errors import Unusable
from pingup.signing import Signer, new_seed, token_of

NEEDED = {"id": "edge-1", "url": "mqtt://broker"}
FILE = """
id = "edge-1"
url = "mqtts://broker.example"
secret_file = "from-file"
interval = 30

[latency]
target = "[::1]:443"
method = "icmp"

[scan]
ranges = ["192.168.1.0/24"]
within = ["192.168.0.0/16"]

[services]
allowed = ["nginx"]

[execute]
programs = ["/usr/bin/uptime"]
"""


def test_flags_come_before_the_environment_before_the_file_before_defaults(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(FILE)
    environ = {"PINGUP_AGENT_INTERVAL": "20", "PINGUP_AGENT_SCAN__PORTS": "22, 80", "PINGUP_HTTP__PORT": "1"}
    settings = load(flags={"interval": 10.0, "disk": None}, environ=environ, config=config)
    assert settings.interval == 10
    assert settings.scan.ports == (22, 80)
    assert settings.scan.ranges == ("192.168.1.0/24",)
    assert settings.scan.ceiling == ("192.168.0.0/16",)
    assert settings.latency.target == "[::1]:443"
    assert settings.services.command == ("systemctl", "restart")
    assert settings.execute.programs == ("/usr/bin/uptime",)
    assert settings.disk == "/"


def test_nothing_may_be_executed_restarted_or_scanned_by_default() -> None:
    settings = load(flags=NEEDED, environ={})
    assert settings.execute.programs == settings.services.allowed == settings.scan.ceiling == ()


def test_agents_with_different_ids_have_directories_of_their_own() -> None:
    homes = {load(flags={**NEEDED, "id": name}, environ={}).home for name in ("edge-1", "edge-2")}
    assert homes == {Path("pingup-agent/edge-1"), Path("pingup-agent/edge-2")}


@pytest.mark.parametrize(
    ("url", "address", "is_tls"),
    [
        ("mqtt://broker", Address("broker", 1883), False),
        ("mqtts://broker", Address("broker", 8883), True),
        ("mqtt://[::1]:2883/", Address("::1", 2883), False),
    ],
)
def test_a_url_names_host_port_and_encryption(url: str, address: Address, is_tls: bool) -> None:
    settings = load(flags={**NEEDED, "url": url}, environ={})
    assert (settings.broker, settings.is_tls) == (address, is_tls)


@pytest.mark.parametrize(
    "url",
    [
        "broker",
        "mqtt://",
        "mqtt://user:secret@broker",
        "mqtt://broker:99999",
        "mqtt://broker/path",
        "mqtt://[",
    ],
)
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(Unusable, match="bad setting url") as problem:
        load(flags={**NEEDED, "url": url}, environ={})
    assert problem.value.exit_code == 2


@pytest.mark.parametrize(
    "text", ["", "host", ":80", "host:", "host:0", "host:99999", "a b@c:1", "h:1/x", "[::1:80"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no address like"):
        parse_address(text)


def _settings(**values: Any) -> AgentSettings:
    return load(flags={**NEEDED, **values}, environ={})


def test_a_secret_comes_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret\n")
    assert identity_of(_settings(secret_file=tmp_path / "secret")).token == token_of("the secret")


def test_a_secret_file_given_as_flag_wins_over_a_secret_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the flag")
    environ = {"PINGUP_AGENT_SECRET": "of the environment"}
    settings = load(flags={**NEEDED, "secret_file": tmp_path / "secret"}, environ=environ)
    assert identity_of(settings).token == token_of("of the flag")


def test_an_ed25519_agent_signs_with_its_seed_and_shows_its_token() -> None:
    seed = base64.b64encode(new_seed()).decode()
    server = Signer(new_seed()).public_key
    identity = identity_of(_settings(seed=seed, token="shown", server_public_key=server))
    assert identity.token == "shown"
    assert identity.sign(b'{"a":1}').startswith(b'{"a":1,"signature":"')


SEED = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "needs either its secret"),
        ({"secret": " \n"}, "the secret is empty"),
        ({"secret": "s", "seed": SEED}, "needs either its secret"),
        ({"seed": SEED}, "also needs its token and server_public_key"),
        ({"seed": SEED, "token": "t", "server_public_key": "short"}, "standard base64, 32 bytes each"),
        ({"seed": "!", "token": "t", "server_public_key": SEED}, "standard base64, 32 bytes each"),
        ({"seed": "AAAA", "token": "t", "server_public_key": SEED}, "this one has 3"),
    ],
)
def test_missing_or_bad_keys_are_a_clear_error_that_shows_none(values: dict[str, str], problem: str) -> None:
    with pytest.raises(Unusable, match=problem) as raised:
        identity_of(_settings(**values))
    assert raised.value.exit_code == 2
    assert SEED not in str(raised.value)


def test_a_secret_and_a_file_with_one_are_refused() -> None:
    with pytest.raises(Unusable, match="either secret or secret_file"):
        _settings(secret="s", secret_file="f")
