"""`python -m pingup.bench.bare`: the server's own MQTT 5 session, which acknowledges all and does nothing."""

from __future__ import annotations

import asyncio
import sys

from pingup.bench.server import HOST
from pingup.brokers.session import Message, Options, Subscription, connect

_RECEIVE_MAXIMUM = 30_000


async def receive(port: int, topic_filter: str, count: int) -> None:
    """Say `subscribed`, and return after so many messages."""
    left = count
    done = asyncio.Event()

    def take(messages: list[Message]) -> list[None]:
        nonlocal left
        left -= len(messages)
        if left <= 0:
            done.set()
        return [None] * len(messages)

    options = Options(host=HOST, port=port, client_id="bare", receive_maximum=_RECEIVE_MAXIMUM)
    async with connect(options, take) as connection:
        await connection.subscribe(Subscription(topic_filter))
        print("subscribed", flush=True)
        await done.wait()


if __name__ == "__main__":
    asyncio.run(receive(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
