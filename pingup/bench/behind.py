"""A server behind a fresh Mosquitto: how fast it stores what is published there."""

from __future__ import annotations

from contextlib import nullcontext

import msgspec

from pingup.bench.generator import Generator
from pingup.bench.load import Sent
from pingup.bench.mosquitto import running_mosquitto
from pingup.bench.peers import watching
from pingup.bench.server import Server, at_broker
from pingup.bench.stage import Stage, register
from pingup.bench.stored import LAST_AGENT, check_count, publish_last, wait_for_last


class Taken(msgspec.Struct, frozen=True):
    """What came of a load: messages a second until the last commit, and what it cost.

    `cpu` is microseconds of the server for a message, `server` and `broker` are shares of a core, `peak` is
    its largest resident memory in MB.
    """

    sent: Sent
    rate: float
    cpu: float
    server: float
    broker: float
    peak: float


class Behind:
    """A data directory with registered agents, served behind a new Mosquitto for each load."""

    def __init__(self, stage: Stage, agents: int) -> None:
        self.data_dir = stage.new_directory("behind") / "data"
        self.samples = 0
        """Sent so far."""
        self._stage = stage
        with Server.start(self.data_dir) as server:
            register(server, agents)
            register(server, 1, LAST_AGENT)

    def take(
        self,
        generator: Generator,
        *,
        after: Generator | None = None,
        watched: str | None = None,
        samples: int = 1,
    ) -> Taken:
        """Send what is prepared, `samples` in a message.

        `after` sends something first that does not count. `watched` is a topic filter that somebody has.

        Raises:
            Unmeasured: it is not stored.
        """
        directory = self._stage.new_directory("mosquitto")
        with (
            running_mosquitto(directory) as broker,
            Server.start(self.data_dir, *at_broker(broker.port)) as server,
        ):
            server.wait_for_broker()
            if after is not None:
                self._send_first(after, server, broker.port)
            with watching(broker.port, watched) if watched else nullcontext():
                used, broker_used = server.processor_time, broker.processor_time
                sent = generator.send(broker.port)
                seconds = self._until_stored(server, broker.port, sent.began)
                used, broker_used = server.processor_time - used, broker.processor_time - broker_used
            self.samples += sent.messages * samples + 1
            cost = used / sent.messages * 1e6
            return Taken(
                sent, sent.messages / seconds, cost, used / seconds, broker_used / seconds, server.peak_rss
            )

    def drain(self, generator: Generator) -> Taken:
        """The same, but everything waits in the broker when the server starts, and time counts from there."""
        directory = self._stage.new_directory("mosquitto")
        with running_mosquitto(directory) as broker:
            with Server.start(self.data_dir, *at_broker(broker.port)) as server:
                server.wait_for_broker()  # from now on the broker keeps what comes
            sent = generator.send(broker.port)
            broker_used = broker.processor_time
            with Server.start(self.data_dir, *at_broker(broker.port)) as server:
                used = server.processor_time
                seconds = self._until_stored(server, broker.port, server.ready_at)
                used, broker_used = server.processor_time - used, broker.processor_time - broker_used
                peak = server.peak_rss
        self.samples += sent.messages + 1
        cost = used / sent.messages * 1e6
        return Taken(sent, sent.messages / seconds, cost, used / seconds, broker_used / seconds, peak)

    def _send_first(self, generator: Generator, server: Server, port: int) -> None:
        sent = generator.send(port)
        self._until_stored(server, port, sent.began)
        self.samples += sent.messages + 1

    def checked(self) -> str:
        """Whether all that was sent is stored, in words. Raises Unmeasured when it is not."""
        return check_count(self.data_dir, self.samples)

    def _until_stored(self, server: Server, port: int, since: float) -> float:
        """Seconds from then to the last commit."""
        publish_last(port)
        return wait_for_last(server, self.data_dir, since) - since


def busy(taken: list[Taken]) -> str:
    """How busy everybody was, and whether the load was the limit."""
    count = len(taken)
    server, broker = (
        sum(shares) / count for shares in ([t.server for t in taken], [t.broker for t in taken])
    )
    own = sum(one.sent.own_cpu / one.sent.seconds for one in taken) / count
    limit = "; the load generator was the limit" if any(one.sent.was_limit for one in taken) else ""
    return f"the server used {server:.0%} of a core, Mosquitto {broker:.0%}, the generator {own:.0%}{limit}"
