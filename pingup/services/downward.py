"""Messages from the server to an agent: made, signed and kept within what an agent takes."""

from __future__ import annotations

import msgspec

from pingup import codec, signing
from pingup.errors import Invalid, Rejected
from pingup.model import AgentKey, Algorithm
from pingup.signing import Signer

MAX_BYTES = 60 * 1024


class Signed(msgspec.Struct, frozen=True):
    """A signed message: the exact text that was signed, and the signature over it in base64."""

    text: str
    signature: str

    def message(self) -> bytes:
        """The bytes that travel."""
        return signing.attach(self.text.encode(), self.signature)


class Downward:
    """Signs what goes to agents: with an agent's own secret, or with the server's Ed25519 key."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @property
    def public_key(self) -> str:
        """What Ed25519 agents verify the server with, base64."""
        return self._signer.public_key

    def sign(self, key: AgentKey, members: dict[str, object], field: str) -> Signed:
        """Sign an object for an agent.

        Args:
            key: the key record of the agent; it alone chooses the algorithm.
            members: what the message says; it has no `timestamp`, so it is never taken for an agent's.
            field: the caller's name for the part that may be too large.

        Raises:
            Invalid: it is larger or nested deeper than an agent takes.
        """
        body = codec.encode(members)
        if len(body) > MAX_BYTES:
            problem = f"{len(body):,} bytes as a message, {MAX_BYTES:,} are allowed"
            raise Invalid(f"{field} is too large", {field: problem})
        try:
            codec.check_bounds(body)
        except Rejected as problem:
            raise Invalid(f"{field} cannot be sent", {field: problem.detail}) from problem
        if key.algorithm is Algorithm.HMAC_SHA256 and key.secret is not None:
            signature = signing.hmac_signature(key.secret, body).decode()
        else:
            signature = self._signer.signature(body)
        return Signed(body.decode(), signature)
