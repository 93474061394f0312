"""The program of a load generator: orders by the line on its input, answers by the line on its output."""

from __future__ import annotations

import sys
from typing import BinaryIO

import msgspec

from pingup.bench.lines import run
from pingup.bench.load import Answer, Failure, Load, Prepare, Prepared, Send
from pingup.bench.scripts import Script, scripts
from pingup.bench.server import Unmeasured

_orders = msgspec.json.Decoder(Prepare | Send)


def main(orders: BinaryIO, answers: BinaryIO) -> None:
    """Do what is ordered until the input ends."""
    load: Load | None = None
    prepared: list[Script] = []
    for line in orders:
        order = _orders.decode(line)
        if isinstance(order, Prepare):
            load, prepared = order.load, scripts(order.load)
            answer = Answer(prepared=Prepared(load.messages, sum(len(one.data) for one in prepared)))
        else:
            answer = _send(prepared, load, order.port)
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


def _send(prepared: list[Script], load: Load | None, port: int) -> Answer:
    if load is None:
        return Answer(failure=Failure("nothing is prepared"))
    try:
        return Answer(sent=run(prepared, load, port))
    except Unmeasured as problem:
        return Answer(failure=Failure(str(problem)))


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
