"""Secrets in columns: sealed with the master key and bound to their owner, so that rows cannot be swapped."""

from __future__ import annotations

from pathlib import Path

from pingup.errors import Unusable
from pingup.signing import Vault, WrongMasterKey


class Sealing:
    """Seals what belongs to an owner: `agent/<id>`, `token/<id>` or `setting/<name>`, without NUL."""

    def __init__(self, vault: Vault, path: Path) -> None:
        """`path` is the database's, for the text of errors."""
        self._vault = vault
        self._path = path

    def seal(self, owner: str, plain: bytes) -> bytes:
        return self._vault.seal(owner.encode() + b"\0" + plain)

    def unseal(self, owner: str, sealed: bytes) -> bytes:
        """Open what was sealed for the same owner.

        Raises:
            Unusable: another master key sealed it, it was changed, or it is another owner's.
        """
        try:
            found, _, plain = self._vault.unseal(sealed).partition(b"\0")
        except WrongMasterKey as problem:
            raise Unusable(
                f"the master key does not open {self._path} ({owner}): put back the master.key that it was "
                "made with"
            ) from problem
        if found != owner.encode():
            raise Unusable(f"{self._path} was tampered with: what stands under {owner} is another's")
        return plain
