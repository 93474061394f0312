"""The signature holds exactly what was sent, and the vectors that other implementations pass too."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingup import signing
from pingup.errors import Reason, Rejected
from pingup.model import AgentKey, Algorithm
from tests.mosquitto import find_program

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "signing.json").read_text())
SECRET: str = VECTORS["secret"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(), json_values, min_size=1, max_size=5)


def key(algorithm: Algorithm = Algorithm.HMAC_SHA256) -> AgentKey:
    if algorithm is Algorithm.ED25519:
        return AgentKey("AGENT-001", algorithm, None, base64.b64decode(VECTORS["publicKey"]), b"")
    return AgentKey("AGENT-001", algorithm, SECRET, None, b"")


def reason_of(message: bytes, agent_key: AgentKey) -> str:
    try:
        signing.verify(message, agent_key)
    except Rejected as refusal:
        return refusal.reason.value
    return ""


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_each_vector_gets_its_verdict(vector: dict[str, Any]) -> None:
    message = base64.b64decode(vector["message"])
    assert reason_of(message, key(Algorithm(vector["algorithm"]))) == vector["why"]


def test_the_token_is_derived_from_the_secret_as_promised() -> None:
    assert signing.token_of(SECRET) == VECTORS["token"]


@given(json_objects, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]), st.booleans())
def test_what_is_signed_verifies_whatever_its_spelling(
    members: dict[str, Any], separators: tuple[str, str], ascii_only: bool
) -> None:
    body = json.dumps(members, separators=separators, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    message = signing.sign(body, SECRET)
    assert signing.cut(message)[0] == body
    signing.verify(message, key())


@given(json_objects, st.integers(min_value=0), st.integers(min_value=0, max_value=255))
def test_no_changed_byte_passes(members: dict[str, Any], position: int, byte: int) -> None:
    message = bytearray(signing.sign(json.dumps(members).encode(), SECRET))
    place = position % len(message)
    if message[place] == byte:
        byte ^= 1
    message[place] = byte
    changed = bytes(message)
    original_signature = signing.cut(signing.sign(json.dumps(members).encode(), SECRET))
    try:
        cut = signing.cut(changed)
    except Rejected:
        return
    # White space beside the signature is not signed and may change; what is signed may not.
    assert (reason_of(changed, key()) == "") == (cut == original_signature)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_with_a_reason(message: bytes) -> None:
    assert reason_of(message, key()) in (Reason.NO_SIGNATURE.value, Reason.BAD_SIGNATURE.value)


@given(st.binary(max_size=80))
def test_no_made_up_signature_passes_for_either_algorithm(signature: bytes) -> None:
    message = signing.attach(b'{"agentId":"AGENT-001"}', base64.b64encode(signature).decode() or "A")
    assert reason_of(message, key()) == Reason.BAD_SIGNATURE.value
    assert reason_of(message, key(Algorithm.ED25519)) == Reason.BAD_SIGNATURE.value


def test_an_agent_without_key_material_is_never_verified() -> None:
    message = signing.sign(b'{"agentId":"AGENT-001"}', "")
    for algorithm in Algorithm:
        assert reason_of(message, AgentKey("AGENT-001", algorithm, None, None, b"")) == "bad_signature"


def test_an_ed25519_signer_signs_what_its_public_key_verifies() -> None:
    signer = signing.Signer(signing.new_seed())
    body = b'{"agentId":"AGENT-001"}'
    public_key = signing.read_public_key(signer.public_key)
    agent_key = AgentKey("AGENT-001", Algorithm.ED25519, None, public_key, b"")
    signing.verify(signing.attach(body, signer.signature(body)), agent_key)


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", base64.b64encode(bytes(33)).decode()])
def test_a_bad_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        signing.read_public_key(text)


def test_a_secret_opens_only_with_the_key_that_sealed_it() -> None:
    vault = signing.Vault(signing.Vault.new_key())
    sealed = vault.seal(b"a secret")
    assert b"a secret" not in sealed
    assert vault.unseal(sealed) == b"a secret"
    with pytest.raises(signing.WrongMasterKey):
        signing.Vault(signing.Vault.new_key()).unseal(sealed)
    with pytest.raises(signing.WrongMasterKey):
        vault.unseal(sealed[:-1] + bytes([sealed[-1] ^ 1]))


def test_new_secrets_and_tokens_have_256_bits_and_need_no_escaping() -> None:
    for text in (signing.new_secret(), signing.new_token()):
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", text)
    assert signing.new_secret() != signing.new_secret()


def test_openssl_in_a_shell_makes_the_same_signature() -> None:
    find_program("openssl")
    body = '{"agentId":"AGENT-001","timestamp":"2026-02-25T10:00:00Z"}'
    script = 'printf %s "$B" | openssl dgst -sha256 -mac HMAC -macopt "key:$S" -binary | openssl base64 -A'
    made = subprocess.run(
        ["sh", "-c", script],
        env={"B": body, "S": SECRET, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    signing.verify(signing.attach(body.encode(), made.stdout.decode()), key())


# --- the quick way and the general one ---------------------------------------------------------------


def verdict(verify: Callable[[bytes, AgentKey], None], message: bytes, agent_key: AgentKey) -> object:
    try:
        verify(message, agent_key)
    except Rejected as refusal:
        return refusal.reason, refusal.detail
    return None


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_an_agent_that_is_known_gets_the_same_verdict_on_each_vector(vector: dict[str, Any]) -> None:
    agent_key = key(Algorithm(vector["algorithm"]))
    verifier = signing.Verifier()
    if agent_key.algorithm is Algorithm.HMAC_SHA256:
        verifier.verify(signing.sign(b'{"a":1}', SECRET), agent_key)
    message = base64.b64decode(vector["message"])
    assert verdict(verifier.verify, message, agent_key) == verdict(signing.verify, message, agent_key)


@given(
    json_objects,
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=200),
    st.integers(0),
    st.binary(max_size=3),
)
def test_whatever_is_changed_an_agent_that_is_known_gets_the_same_verdict(
    members: dict[str, Any], secret: str, place: int, change: bytes
) -> None:
    agent_key = AgentKey("A", Algorithm.HMAC_SHA256, secret, None, b"")
    verifier = signing.Verifier()
    message = signing.sign(json.dumps(members).encode(), secret)
    verifier.verify(message, agent_key)
    verifier.verify(message, agent_key)
    place %= len(message)
    changed = message[:place] + change + message[place + 1 :]
    assert verdict(verifier.verify, changed, agent_key) == verdict(signing.verify, changed, agent_key)


def test_a_key_that_was_replaced_counts_no_more() -> None:
    verifier = signing.Verifier()
    old, new = (AgentKey("A", Algorithm.HMAC_SHA256, letter * 32, None, b"") for letter in "on")
    by_old, by_new = (signing.sign(b'{"a":1}', letter * 32) for letter in "on")
    verifier.verify(by_old, old)
    verifier.verify(by_new, new)
    assert verdict(verifier.verify, by_old, new) is not None
    verifier.verify(by_new, new)


def test_beyond_the_agents_that_are_kept_verifying_goes_on() -> None:
    verifier = signing.Verifier(max_agents=1)
    for agent_id in "ABAB":
        agent_key = AgentKey(agent_id, Algorithm.HMAC_SHA256, SECRET, None, b"")
        verifier.verify(signing.sign(b'{"a":1}', SECRET), agent_key)
        assert verdict(verifier.verify, signing.sign(b'{"a":1}', "x" * 32), agent_key) is not None
