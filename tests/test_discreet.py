"""No secret is in the repr of anything that holds one: a log line or a traceback could show it."""

from __future__ import annotations

import msgspec
import pytest

from pingup.agent.settings import AgentSettings
from pingup.brokers.greeting import Greeting
from pingup.http.internal import Login, VerneLogin
from pingup.model import AgentKey, Algorithm
from pingup.services.agents import Credentials, Registration
from pingup.settings import InternalSettings, MqttSettings, Settings

SECRET = "nobody-may-ever-read-this-in-a-log"
HOLDERS: tuple[msgspec.Struct, ...] = (
    AgentKey("a1", Algorithm.HMAC_SHA256, SECRET, None, b"", SECRET),
    Credentials(SECRET, Algorithm.HMAC_SHA256, secret=SECRET),
    Registration(id="a1", metadata={}, tags=(), secret=SECRET),
    Settings(
        admin_token=SECRET,
        internal=InternalSettings(token=SECRET),
        mqtt=MqttSettings(
            url=f"mqtt://server:{SECRET}@localhost", control_url=f"mqtt://admin:{SECRET}@localhost"
        ),
    ),
    AgentSettings(id="a1", secret=SECRET, seed=SECRET, token=SECRET),
    Greeting("a1", "a1", SECRET, clean_session=True, keep_alive=0, will=None),
    Login("a1", SECRET, "a1"),
    VerneLogin("a1", SECRET, "a1"),
)


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_a_secret_is_in_no_repr(holder: msgspec.Struct) -> None:
    assert SECRET in str(msgspec.to_builtins(holder, enc_hook=str))
    assert SECRET not in repr(holder)
    assert "…" in repr(holder)
