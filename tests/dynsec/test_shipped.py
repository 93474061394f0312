"""The shipped configuration for dynamic security in a real Mosquitto, before anybody is brought in."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import aiomqtt
import pytest

from tests.dynsec.visitors import LIMIT, client, comes_in, until_disconnected
from tests.mosquitto import (
    HOST,
    LISTENER,
    SHIPPED,
    Dynsec,
    find_dynsec,
    make_certificate,
    running_dynsec,
    running_mosquitto,
)

pytestmark = pytest.mark.mosquitto

CONFIG = SHIPPED / "mosquitto-dynsec" / "mosquitto.conf"


async def test_with_dynamic_security_as_shipped_only_the_administrator_comes_in(broker: Dynsec) -> None:
    assert await comes_in(broker.port, broker.admin, broker.password)
    assert not await comes_in(broker.port, broker.admin, "wrong")
    for user in ("server", "agent-1", "operator.tok_admin"):
        for password in (None, "", user):
            assert not await comes_in(broker.port, user, password)


async def test_with_dynamic_security_a_client_id_is_its_users_name(broker: Dynsec) -> None:
    async with client(broker.port, broker.admin, broker.password, client_id="one") as one:
        assert await comes_in(broker.port, broker.admin, broker.password, client_id="two")
        await until_disconnected(one)


async def test_with_dynamic_security_the_tls_listener_works_once_its_lines_are_uncommented(
    tmp_path: Path,
) -> None:
    async with running_dynsec(tmp_path) as plain:
        admin, password = plain.admin, plain.password
    make_certificate(tmp_path)
    config = re.sub("(?m)^plugin .*$", f"plugin {find_dynsec()}", CONFIG.read_text("utf-8"))
    above, _, commented = config.partition("#listener 8883\n")
    above, _, _ = above.partition("listener 1883")
    async with (
        running_mosquitto(tmp_path, f"{above}{LISTENER}\n{commented.replace('#', '')}") as mosquitto,
        aiomqtt.Client(
            HOST,
            mosquitto.port,
            username=admin,
            password=password,
            tls_context=ssl.create_default_context(cafile=tmp_path / "ca.crt"),
            timeout=LIMIT,
        ),
    ):
        pass
