"""The data directory: where it is, whose eyes it is for, and the master key and the admin token in it."""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pingup.errors import Unusable
from pingup.settings import is_admin_token
from pingup.signing import Vault

REGISTRY_FILE = "pingup.db"
TELEMETRY_FILE = "analytics.duckdb"
MASTER_KEY_FILE = "master.key"
ADMIN_TOKEN_FILE = "admin.token"  # noqa: S105 - a file's name


class DataDirectory(msgspec.Struct, frozen=True):
    """An open data directory and the master key that its secrets are sealed with."""

    path: Path
    master_key: bytes

    @property
    def registry(self) -> Path:
        return self.path / REGISTRY_FILE

    @property
    def telemetry(self) -> Path:
        return self.path / TELEMETRY_FILE

    @property
    def admin_token(self) -> Path:
        return self.path / ADMIN_TOKEN_FILE


def open_data_dir(path: Path) -> DataDirectory:
    """Make the directory and its master key on the first start, read them on the next ones.

    Raises:
        Unusable: it can't be read or written, or the master key is missing, damaged or open to others.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _directory(path) as handle:
            # Of two first starts at the same moment one makes the key, and the other waits and reads it.
            fcntl.flock(handle, fcntl.LOCK_EX)
            return DataDirectory(path, _master_key(path))
    except OSError as problem:
        raise Unusable(f"cannot use the data directory {path}: {problem.strerror}") from problem


def _master_key(directory: Path) -> bytes:
    path = directory / MASTER_KEY_FILE
    if not path.exists():
        if (directory / REGISTRY_FILE).exists():
            raise Unusable(f"{path} is missing: without it the secrets in {REGISTRY_FILE} cannot be opened")
        write_private(path, base64.b64encode(Vault.new_key()).decode())
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise Unusable(f"{path} can be read by others (mode {mode:04o}): chmod 600 it, then replace its key")
    try:
        key = base64.b64decode(path.read_text("ascii").strip(), validate=True)
    except (ValueError, binascii.Error) as problem:
        raise Unusable(f"{path} is damaged: it holds no base64 of {Vault.KEY_SIZE} bytes") from problem
    if len(key) != Vault.KEY_SIZE:
        raise Unusable(f"{path} is damaged: {len(key)} bytes in place of {Vault.KEY_SIZE}")
    return key


def read_admin_token(data: DataDirectory) -> str | None:
    """The admin token that a first start has left, None if there is none.

    Raises:
        Unusable: the file can't be read, or holds no token.
    """
    path = data.admin_token
    try:
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise Unusable(f"cannot read {path}: {problem.strerror}") from problem
    except UnicodeDecodeError:
        text = ""
    if not is_admin_token(text):
        raise Unusable(f"{path} holds no token: remove it, and the next start makes a new one")
    return text


def write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner can read; it is there whole, or not at all, after a crash.

    Raises:
        Unusable: it can't be written.
    """
    draft = path.with_suffix(".new")
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        with _directory(path.parent) as handle:
            os.fsync(handle)
    except OSError as problem:
        raise Unusable(f"cannot write {path}: {problem.strerror}") from problem


@contextmanager
def _directory(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)
