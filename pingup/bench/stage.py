"""Where a case is measured: its directory, its effort, and whom it tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import msgspec

from pingup.bench.generator import send_once
from pingup.bench.load import Kind, Load
from pingup.bench.report import Effort, Measurement
from pingup.bench.server import Server

_CONNECTIONS = 64


class Stage(msgspec.Struct, frozen=True):
    """What a case is given. The directory is its own, and empty."""

    directory: Path
    effort: Effort
    tell: Callable[[str], None]

    def amount(self, usual: int) -> int:
        """So much work as the effort allows."""
        return self.effort.amount(usual)

    def runs(self) -> Iterator[int]:
        """The numbers of the runs, each told of when it begins."""
        for run in range(self.effort.runs):
            self.tell(f"run {run + 1} of {self.effort.runs}")
            yield run

    def new_directory(self, name: str) -> Path:
        """A directory that was not there yet."""
        path = next(path for number in count(1) if not (path := self.directory / f"{name}-{number}").exists())
        path.mkdir()
        return path


Measure = Callable[[Stage], Iterator[Measurement]]


def register(server: Server, agents: int, first: int = 0) -> None:
    """Register agents with the credentials of `pingup.bench.messages.device`."""
    connections = min(_CONNECTIONS, agents)
    load = Load(
        kind=Kind.REGISTER,
        agents=agents,
        each=1,
        connections=connections,
        first_agent=first,
        token=server.admin_token,
    )
    send_once(load, server.http)
