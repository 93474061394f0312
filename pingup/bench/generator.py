"""A load generator as its customer sees it: a process of its own, so that it takes no time from anybody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import msgspec

from pingup.bench.load import Answer, Load, Prepare, Prepared, Send, Sent
from pingup.bench.server import Unmeasured

_answers = msgspec.json.Decoder(Answer)


class Generator:
    """Has a load prepared, and sends it as often as wanted, to one port after the other."""

    def __init__(self, process: subprocess.Popen[bytes], load: Load) -> None:
        self._process = process
        self.prepared = self._prepare(load)

    @classmethod
    @contextmanager
    def start(cls, load: Load) -> Iterator[Self]:
        """One that has prepared a load."""
        command = [sys.executable, "-m", "pingup.bench.generating"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                yield cls(process, load)
            finally:
                process.terminate()

    def _prepare(self, load: Load) -> Prepared:
        self._order(Prepare(load))
        prepared = self._answer().prepared
        if prepared is None:
            raise Unmeasured("the load generator did not do as it was told")
        return prepared

    def begin(self, port: int) -> None:
        """Start to send; `end` waits for the result."""
        self._order(Send(port))

    def end(self) -> Sent:
        """What came of it, when everything is answered.

        Raises:
            Unmeasured: the server did not answer as it should.
        """
        answer = self._answer()
        if answer.sent is None:
            raise Unmeasured(answer.failure.detail if answer.failure else "the load generator sent nothing")
        return answer.sent

    def send(self, port: int) -> Sent:
        """Send all, and wait until everything is answered. Raises as `end`."""
        self.begin(port)
        return self.end()

    def _order(self, order: Prepare | Send) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> Answer:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line:
            raise Unmeasured("the load generator has ended")
        return _answers.decode(line)


def send_once(load: Load, port: int) -> Sent:
    """Prepare a load in a fresh process and send it. Raises as `Generator.end`."""
    with Generator.start(load) as generator:
        return generator.send(port)
