"""Signing and verifying messages, and sealing secrets; the only door to hmac and to PyNaCl.

A signed message is one JSON object whose last top-level member is `"signature"`. The signed bytes are the
message exactly as sent, with the text from the comma before `"signature"` through the closing quote of its
value cut out (contract, section 2). Nothing is ever serialised again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets

from nacl.exceptions import BadSignatureError, CryptoError
from nacl.secret import SecretBox
from nacl.signing import SigningKey, VerifyKey

from pingup.errors import PingupError, Reason, Rejected
from pingup.model import AgentKey, Algorithm

_SPACE = rb"[ \t\r\n]*"
# Tried at a message's last comma only, so the cost does not grow with its size. In valid JSON one brace
# from there to the end makes it the last member of the outermost object.
_SIGNATURE = re.compile(
    rb',%(s)s"signature"%(s)s:%(s)s"([A-Za-z0-9+/]+={0,2})"%(s)s\}%(s)s\Z'.replace(b"%(s)s", _SPACE)
)
# The same in the usual writing: `,"signature":"`, 44 characters of base64, `"}`.
_MEMBER = b',"signature":"'
_SIGNATURE_SIZE = 44 + 2
_MEMBER_SIZE = len(_MEMBER) + _SIGNATURE_SIZE
_TURNOVER = 64
_BLOCK = 64  # bytes of a block of SHA-256
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))
_TOKEN_CONTEXT = b"pingup/v1/token"
SECRET_MIN_LENGTH = 32


def cut(message: bytes) -> tuple[bytes, bytes]:
    """The signed bytes of a message, and the base64 text of its signature.

    Raises:
        Rejected: `no_signature`, when the message does not end in a signature member.
    """
    comma = message.rfind(b",")
    found = _SIGNATURE.match(message, comma) if comma >= 0 else None
    if found is None:
        raise Rejected(
            Reason.NO_SIGNATURE,
            'the message must be a JSON object whose last member is "signature", in standard base64',
        )
    end = found.end(1) + 1
    return message[:comma] + message[end:], found[1]


def verify(message: bytes, key: AgentKey) -> None:
    """Check a message against the key of the agent that it claims to come from, in constant time.

    Raises:
        Rejected: `no_signature` or `bad_signature`.
    """
    signed, signature = cut(message)
    if not _is_right(signed, signature, key):
        raise Rejected(Reason.BAD_SIGNATURE, f"the signature is not agent {key.agent_id}'s for these bytes")


def _is_right(signed: bytes, signature: bytes, key: AgentKey) -> bool:
    if key.algorithm is Algorithm.HMAC_SHA256 and key.secret is not None:
        return hmac.compare_digest(hmac_signature(key.secret, signed), signature)
    if key.algorithm is Algorithm.ED25519 and key.public_key is not None:
        try:
            VerifyKey(key.public_key).verify(signed, base64.b64decode(signature, validate=True))
        except (BadSignatureError, ValueError, binascii.Error, CryptoError):
            return False
        return True
    return False


class Verifier:
    """`verify`, at a third of its cost for agents with HMAC that were heard of before.

    HMAC hashes its key twice before it comes to the message. Of so many agents the two states of the hash
    after that are kept, about 1 KB each (RFC 2104, section 4).
    """

    def __init__(self, max_agents: int = 16_384) -> None:
        self._max_agents = max_agents
        self._keyed: dict[str, _Keyed] = {}
        self._missed = 0

    def verify(self, message: bytes, key: AgentKey) -> None:
        """As `verify`."""
        keyed = self._keyed.get(key.agent_id)
        if keyed is not None and keyed.key is key and keyed.signed(message):
            return
        # Everything else, and the words for what is wrong.
        verify(message, key)
        if key.algorithm is Algorithm.HMAC_SHA256 and key.secret is not None:
            self._remember(key, key.secret.encode())

    def _remember(self, key: AgentKey, secret: bytes) -> None:
        if key.agent_id not in self._keyed and len(self._keyed) >= self._max_agents:
            # In a fleet that is larger by far each would drive out another; so only a few do.
            self._missed += 1
            if self._missed % _TURNOVER:
                return
            del self._keyed[next(iter(self._keyed))]
        self._keyed[key.agent_id] = _Keyed(key, secret)


class _Keyed:
    """The two states of SHA-256 after an HMAC's key."""

    __slots__ = ("_inner", "_outer", "key")

    def __init__(self, key: AgentKey, secret: bytes) -> None:
        self.key = key
        if len(secret) > _BLOCK:
            secret = hashlib.sha256(secret).digest()
        padded = secret.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(padded.translate(_INNER_PAD))
        self._outer = hashlib.sha256(padded.translate(_OUTER_PAD))

    def signed(self, message: bytes) -> bool:
        """Whether the message ends in the usual writing of this key's signature; False may be any other."""
        if message[-_MEMBER_SIZE:-_SIGNATURE_SIZE] != _MEMBER or message[-2:] != b'"}':
            return False
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message[:-_MEMBER_SIZE] + b"}")
        outer.update(inner.digest())
        expected = binascii.b2a_base64(outer.digest(), newline=False)
        return hmac.compare_digest(expected, message[-_SIGNATURE_SIZE:-2])


def hmac_signature(secret: str, signed: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104) of the bytes under the secret's UTF-8 text, in standard base64."""
    return base64.b64encode(hmac.digest(secret.encode(), signed, "sha256"))


def attach(body: bytes, signature: str) -> bytes:
    """The message that is sent: the signature put in before the final brace of the object `body`."""
    return body[:-1] + b',"signature":"' + signature.encode() + b'"}'


def sign(body: bytes, secret: str) -> bytes:
    """Sign a JSON object with an agent's secret.

    Args:
        body: one serialised JSON object with at least one member, its last byte the closing brace.
        secret: the agent's secret string.
    """
    return attach(body, hmac_signature(secret, body).decode())


class Signer:
    """Signs with an Ed25519 key: the server's own, or an agent's."""

    def __init__(self, seed: bytes) -> None:
        """`seed` is the 32 bytes of the private key (RFC 8032, section 5.1.5)."""
        self._key = SigningKey(seed)

    @property
    def public_key(self) -> str:
        """The public key, standard base64 of 32 bytes."""
        return base64.b64encode(bytes(self._key.verify_key)).decode()

    def signature(self, body: bytes) -> str:
        """The Ed25519 signature (RFC 8032) of the bytes, in standard base64."""
        return base64.b64encode(self._key.sign(body).signature).decode()


def new_seed() -> bytes:
    """A fresh Ed25519 seed: 32 random bytes."""
    return os.urandom(32)


def read_public_key(text: str) -> bytes:
    """The 32 bytes of a public key in standard base64.

    Raises:
        ValueError: it is anything else.
    """
    key = base64.b64decode(text, validate=True)
    if len(key) != 32:
        raise ValueError(f"an Ed25519 public key has 32 bytes, this one has {len(key)}")
    return key


# --- credentials -----------------------------------------------------------------------------------


def new_secret() -> str:
    """A fresh agent secret: 32 random bytes as base64url without padding."""
    return secrets.token_urlsafe(32)


def new_token() -> str:
    """A fresh token of 256 bits, as base64url without padding."""
    return secrets.token_urlsafe(32)


def token_of(secret: str) -> str:
    """The token that belongs to an agent's secret, so that no broker ever sees the signing key.

    base64url without padding of HMAC-SHA256(secret, "pingup/v1/token") (contract, section 5).
    """
    digest = hmac.digest(secret.encode(), _TOKEN_CONTEXT, "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def hash_token(token: str) -> bytes:
    """What is kept of a token: its SHA-256. Tokens are random, so a slow hash would add nothing."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def is_same(one: str, other: str) -> bool:
    """Whether two secret texts are equal, in constant time."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


class Fingerprints:
    """Marks by which a changed password is noticed; without the master key they tell nothing about it."""

    def __init__(self, master_key: bytes) -> None:
        self._key = hmac.digest(master_key, b"pingup/v1/fingerprint", "sha256")

    def of(self, token_hash: bytes) -> str:
        """The mark of the password with this SHA-256: 32 hexadecimal digits."""
        return hmac.digest(self._key, token_hash, "sha256")[:16].hex()


def instance_of(master_key: bytes) -> str:
    """The mark of a server and its data directory, which tells nothing of the key: 16 hexadecimal digits."""
    return hmac.digest(master_key, b"pingup/v1/instance", "sha256")[:8].hex()


# --- secrets at rest -------------------------------------------------------------------------------


class WrongMasterKey(PingupError):
    """Something was sealed with another master key, or changed since."""


class Vault:
    """Seals secrets with the master key (XSalsa20-Poly1305): a copy of the database lets nobody in."""

    KEY_SIZE = SecretBox.KEY_SIZE

    def __init__(self, master_key: bytes) -> None:
        self._box = SecretBox(master_key)

    @staticmethod
    def new_key() -> bytes:
        return os.urandom(Vault.KEY_SIZE)

    def seal(self, plain: bytes) -> bytes:
        return bytes(self._box.encrypt(plain))

    def unseal(self, sealed: bytes) -> bytes:
        """Open what `seal` closed.

        Raises:
            WrongMasterKey: it was sealed with another key or changed since.
        """
        try:
            return self._box.decrypt(sealed)
        except (CryptoError, ValueError) as problem:
            raise WrongMasterKey("a secret does not open with this master key") from problem
