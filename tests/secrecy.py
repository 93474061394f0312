"""Every test is also a test that nothing it logs shows a secret: a plugin, see `conftest.py`."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator

import pytest

from pingup import signing


class Secrets:
    """What was made since the last `forget`: secrets, tokens and private keys, as they would be written."""

    def __init__(self) -> None:
        self._made: set[str] = set()

    def forget(self) -> None:
        self._made.clear()

    def noting(self, make: Callable[[], str | bytes]) -> Callable[[], str | bytes]:
        """The same maker, which tells us what it has made."""

        def made() -> str | bytes:
            new = make()
            self._made.add(new if isinstance(new, str) else base64.b64encode(new).decode())
            return new

        return made

    def found_in(self, text: str) -> list[str]:
        """Which of them stand in a text."""
        return [secret for secret in self._made if secret in text]


_MAKERS = ("new_secret", "new_token", "new_seed")


@pytest.fixture(scope="session")
def secrets_made() -> Iterator[Secrets]:
    """All secrets that this process makes, and a log that hides nothing of what is said about them."""
    made = Secrets()
    logging.getLogger("pingup").setLevel(logging.DEBUG)
    with pytest.MonkeyPatch.context() as patch:
        for name in _MAKERS:
            patch.setattr(signing, name, made.noting(getattr(signing, name)))
        yield made


@pytest.fixture(autouse=True)
def no_secret_is_logged(secrets_made: Secrets, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test that has logged a secret, at any level."""
    secrets_made.forget()
    yield
    lines = [record for phase in ("setup", "call") for record in caplog.get_records(phase)]
    formatter = logging.Formatter()
    said = "\n".join(formatter.format(record) for record in lines)
    assert secrets_made.found_in(said) == [], "the log shows a secret"
