"""Somebody has a copy of the databases and not the master key: no secret, no token and no key is in it."""

from __future__ import annotations

import base64
import binascii
import shutil
from collections.abc import Iterator
from pathlib import Path

import nacl.signing
import pytest

from tests.journey.program import EMBEDDED, Running, run, serving

ADMIN = "the-admin-token-of-the-environment-of-this-test"
OWN_SECRET = "a-secret-that-the-operator-has-brought-along"
KEPT_APART = {"master.key", "admin.token"}


async def live_a_life(server: Running) -> list[str]:
    """Make everything that has a secret; what nobody may find afterwards."""
    made = await server.register("made")
    own = await server.register("own", secret=OWN_SECRET)
    public = base64.b64encode(bytes(nacl.signing.SigningKey.generate().verify_key)).decode()
    answer = await server.call("POST", "/api/v1/agents", {"id": "ed", "publicKey": public}, status=201)
    operator = await server.operator("command")
    for agent in ("made", "own", "ed"):
        await server.call("POST", "/api/v1/commands", {"agentId": agent, "action": "ping"}, status=201)
        await server.call("POST", f"/api/v1/config/{agent}", {"interval": 30})
    await made.publish("metrics", made.sample())
    master_key = (server.directory / "master.key").read_text().strip()
    return [
        *(made.secret, made.token, own.secret, own.token, answer["credentials"]["token"]),
        *(operator.token, server.admin_token, ADMIN, master_key),
    ]


def writings(secret: str) -> Iterator[bytes]:
    """The secret as text, and the bytes that it stands for, as they are and in hexadecimal digits."""
    yield secret.encode()
    body = secret.split("_", 1)[1] if secret.startswith(("pgp_", "pge_")) else secret
    yield body.encode()
    try:
        raw = base64.urlsafe_b64decode(body.replace("+", "-").replace("/", "_") + "==")
    except binascii.Error:
        raw = body.encode()
    yield from (raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"="), secret.encode("utf-16-le"))


def copy_of(directory: Path, to: Path) -> Path:
    shutil.copytree(directory, to, ignore=lambda *_: KEPT_APART)
    return to


def found(copy: Path, secrets: list[str]) -> list[tuple[str, str]]:
    contents = {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert {"pingup.db", "analytics.duckdb"} <= set(contents)
    return [
        (name, secret)
        for name, content in contents.items()
        for secret in secrets
        if any(writing in content for writing in writings(secret))
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.mark.parametrize("moment", ["running", "killed", "stopped"])
async def test_a_copy_of_the_databases_shows_no_secret(tmp_path: Path, data: Path, moment: str) -> None:
    async with serving(data, environ={"PINGUP_ADMIN_TOKEN": ADMIN}, broker=EMBEDDED) as server:
        secrets = await live_a_life(server)
        if moment == "killed":
            await server.kill()
        elif moment == "stopped":
            await server.stop()
        copy = copy_of(data, tmp_path / "copy")
    assert found(copy, secrets) == []
    (copy / "leak").write_text(secrets[0])
    assert found(copy, secrets) == [("leak", secrets[0])]


async def test_no_server_starts_with_a_copy_that_has_no_master_key_or_another(
    tmp_path: Path, data: Path
) -> None:
    async with serving(data, broker=EMBEDDED) as server:
        await live_a_life(server)
        await server.stop()
    copy = copy_of(data, tmp_path / "copy")
    flags = ("serve", "--data-dir", str(copy), "--http-port", "0", "--mqtt-port", "0")
    ended = await run(*flags)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (1, "", 1)
    assert "master.key is missing" in ended.err
    (copy / "master.key").write_text(base64.b64encode(bytes(range(32))).decode())
    (copy / "master.key").chmod(0o600)
    ended = await run(*flags)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (1, "", 1)
    assert "master key" in ended.err
