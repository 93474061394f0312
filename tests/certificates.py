"""Certificates for tests, made by openssl: an authority, a broker and a client of it, and a stranger."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


@dataclass(frozen=True)
class Certificates:
    """The broker's is for 127.0.0.1 alone; the client's encrypted key is the same key."""

    directory: Path

    def path(self, name: str) -> Path:
        return self.directory / name

    @property
    def authority(self) -> Path:
        return self.path("ca.pem")

    @property
    def stranger(self) -> Path:
        return self.path("stranger.pem")

    @property
    def client(self) -> Path:
        return self.path("client.pem")

    @property
    def client_key(self) -> Path:
        return self.path("client.key")

    @property
    def encrypted_key(self) -> Path:
        return self.path("encrypted.key")

    def mosquitto(self) -> str:
        """Lines of a mosquitto.conf, to follow a listener."""
        files = {"cafile": "ca.pem", "certfile": "broker.pem", "keyfile": "broker.key"}
        return "".join(f"{name} {self.path(file)}\n" for name, file in files.items())


def make_certificates(directory: Path, openssl: str) -> Certificates:
    made = Certificates(directory)

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=directory, check=True, capture_output=True)

    for name in ("ca", "stranger"):
        run("req", "-x509", *_KEY, "-nodes", "-days", "2", "-subj", f"/CN={name}", *_files(name))
    for name in ("broker", "client"):
        run(
            *("req", "-x509", *_KEY, "-nodes", "-days", "2", "-subj", f"/CN={name}", *_files(name)),
            *("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
        )
    run("ec", "-in", "client.key", "-aes256", "-passout", "pass:secret", "-out", "encrypted.key")
    return made


def _files(name: str) -> tuple[str, ...]:
    return ("-keyout", f"{name}.key", "-out", f"{name}.pem")
