"""The address of a broker: read whole, or refused without showing its password."""

from __future__ import annotations

import pytest

from pingup.broker_url import BrokerUrl, parse_broker_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("mqtt://host", BrokerUrl("host", 1883, False)),
        ("mqtts://host", BrokerUrl("host", 8883, True)),
        ("mqtt://u:p@host:1999/", BrokerUrl("host", 1999, False, "u", "p")),
        ("mqtts://u:p%40%3A%2F@[::1]:1", BrokerUrl("::1", 1, True, "u", "p@:/")),
        (" mqtt://u@10.0.0.1 \n", BrokerUrl("10.0.0.1", 1883, False, "u")),
    ],
)
def test_an_address_is_read_with_its_credentials(text: str, url: BrokerUrl) -> None:
    assert parse_broker_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", "host:1883", "http://u:secret@host", "mqtt://", "mqtt://u:secret@", "mqtt://:1883"),
        *("mqtt://u:secret@host:0", "mqtt://u:secret@host:99999", "mqtt://u:secret@host:x"),
        *("mqtt://u:secret@host/topic", "mqtt://u:secret@host?x=1", "mqtt://u:secret@host#x"),
        "mqtt://u:secret@[::1",
    ],
)
def test_what_is_no_address_is_refused_without_showing_a_password(text: str) -> None:
    with pytest.raises(ValueError, match="is no address like") as refusal:
        parse_broker_url(text)
    assert "secret" not in str(refusal.value)


def test_nobody_sees_the_password_of_an_address() -> None:
    url = parse_broker_url("mqtts://somebody:secret@[::1]:1")
    assert str(url) == "mqtts://[::1]:1"
    assert repr(url) == "BrokerUrl('mqtts://[::1]:1')"
