"""The link to a broker elsewhere, any that speaks MQTT 5."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from ipaddress import ip_address

from msgspec.structs import replace

from pingup.broker_url import BrokerUrl
from pingup.brokers.edge import OFFLINE, ONLINE, Edge
from pingup.brokers.intake import Intake
from pingup.brokers.session import Connection, Credentials, Options, Tls, Will, check_tls
from pingup.brokers.watchers import Watchers
from pingup.clock import Clock
from pingup.crew import Crew
from pingup.errors import Unavailable
from pingup.services.batching import MAX_BATCH_ROWS
from pingup.settings import MqttSettings
from pingup.topics import SYS_STATUS, is_live_metrics

log = logging.getLogger(__name__)

USER = "server"
QUESTION_EXPIRES = 2  # seconds; who is away when it is asked needs no answer to it
ANSWER_WITHIN = 10.0  # seconds for the broker's PUBACK
# While one batch is committed the next one gathers, and a third one is on its way.
RECEIVE_MAXIMUM = 3 * MAX_BATCH_ROWS


class External:
    """A session with the broker, and `pingup.ports.Downlink`, which works from the start: what is to be
    retained while there is no connection is published with the next one."""

    def __init__(self, options: Options, *, url: str, crew: Crew, clock: Clock) -> None:
        """
        Args:
            options: of the connection; the will is put in here.
            url: what people call the broker by, without credentials.
            crew: owns the work of the link.
        """
        self._options = options
        self._url = url
        self._crew = crew
        self._clock = clock
        self._intake: Intake | None = None
        # By topic, only the newest of each.
        self._unsaid: dict[str, bytes] = {}
        self._may_say = asyncio.Event()
        self._watchers = Watchers(asyncio.get_running_loop().time)

    @classmethod
    def of(cls, settings: MqttSettings, broker: BrokerUrl, crew: Crew, clock: Clock) -> External:
        """The link that the settings describe."""
        options = Options(
            host=broker.host,
            port=broker.port,
            client_id=settings.client_id,
            tls=Tls(settings.ca_file, settings.cert_file, settings.key_file) if broker.tls else None,
            credentials=Credentials(broker.username or USER, broker.password),
            clean_start=False,
            session_expiry=int(settings.session_expiry.total_seconds()),
            receive_maximum=RECEIVE_MAXIMUM,
        )
        return cls(options, url=str(broker), crew=crew, clock=clock)

    @asynccontextmanager
    async def open(self, edge: Edge) -> AsyncIterator[None]:
        """Keep up a session with the broker, whether it can be reached now or not.

        Raises:
            Unusable: a certificate or key cannot be used.
        """
        if self._options.tls is not None:
            await asyncio.to_thread(check_tls, self._options.tls)
        elif not _is_here(self._options.host):
            log.warning("the connection to the broker is not encrypted: mqtts:// would be")
        intake = Intake(
            lambda: replace(self._options, will=Will(SYS_STATUS, edge.status(OFFLINE), retain=True)),
            edge,
            self._clock,
            on_connected=lambda connection: self._greet(connection, edge),
        )
        self._intake = intake
        work = [
            self._crew.create_task(intake.run(), name="broker"),
            self._crew.create_task(self._catch_up(), name="retained"),
        ]
        try:
            yield
        finally:
            await intake.leave(lambda connection: self._say(connection, edge, OFFLINE))
            for task in work:
                task.cancel()
            await asyncio.wait(work)

    @property
    def url(self) -> str:
        """What clients call it by, without credentials."""
        return self._url

    @property
    def problem(self) -> str | None:
        """Why there is no connection, in plain words."""
        return "the link is not open" if self._intake is None else self._intake.client.problem

    # --- the downlink ------------------------------------------------------------------------------

    def is_listening(self, agent_id: str) -> bool:
        """Whether there is a connection: the broker doesn't tell which agents are there."""
        return self._connection is not None

    async def deliver(
        self, topic: str, payload: bytes, *, retain: bool = False, expires_at: datetime | None = None
    ) -> bool:
        """Publish with QoS 1; whether the broker has somebody to give it to, now or later.

        What is to be retained waits for a connection, if there is none. It is False then.

        Raises:
            Unavailable: there is no connection, or the broker refuses it, or has not answered within 10 s.
        """
        connection = self._connection
        if connection is None:
            if not retain:
                raise Unavailable(self.problem or "the connection to the broker has just ended")
            self._remember(topic, payload)
            return False
        expires_in = None if expires_at is None else int((expires_at - self._clock.now()).total_seconds())
        # There is no expiry below a second, and some brokers take 0 for none.
        if expires_in is not None and expires_in < 1:
            return False
        if retain:
            self._unsaid.pop(topic, None)  # older than this
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await connection.publish(topic, payload, retain=retain, expires_in=expires_in)
        except TimeoutError as problem:
            raise Unavailable(f"the broker has not answered within {ANSWER_WITHIN:g} s") from problem

    def is_watched(self, topic: str) -> bool:
        """Whether somebody may be watching, as far as the broker's answers tell."""
        return self._watchers.may_watch(topic)

    def emit(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish with QoS 0 and go on at once; what the broker can't take now is lost, unless retained.

        A sample goes out with QoS 1 now and then: the answer tells whether anybody watches the agent.
        """
        # What waits already is not overtaken, but replaced.
        connection = None if retain and topic in self._unsaid else self._connection
        is_sent = connection is not None and (
            connection.send(topic, payload, retain=True) if retain else self._show(connection, topic, payload)
        )
        if retain and not is_sent:
            self._remember(topic, payload)
        if not payload:
            self._watchers.forget(topic)

    def _show(self, connection: Connection, topic: str, payload: bytes) -> bool:
        if is_live_metrics(topic) and self._watchers.should_ask(topic):
            learn = partial(self._learn, connection, topic)
            if connection.ask(topic, payload, expires_in=QUESTION_EXPIRES, on_answer=learn):
                self._watchers.asked(topic)
                return True
        self._watchers.told(topic)
        return connection.send(topic, payload)

    def _learn(self, connection: Connection, topic: str, is_watched: bool) -> None:
        if connection is self._connection:
            self._watchers.learn(topic, is_watched=is_watched)

    def keep(self, topic: str, payload: bytes) -> None:
        """Retain a message. Who watches gets it too, for the second time: MQTT knows no other way."""
        self.emit(topic, payload, retain=True)

    def end_sessions(self, principal_id: str) -> None:
        """Nothing: who may connect is the broker's, and what tells it so ends sessions too."""

    # --- the connection ----------------------------------------------------------------------------

    @property
    def _connection(self) -> Connection | None:
        """The one that takes something now; one that is about to end does not."""
        connection = None if self._intake is None else self._intake.client.connection
        return connection if connection is not None and connection.is_open else None

    def _greet(self, connection: Connection, edge: Edge) -> None:
        terms = connection.terms
        kept_for = terms.session_expiry_interval
        if kept_for is not None and kept_for < self._options.session_expiry:
            log.warning("the broker keeps what waits for the server for %d s only", kept_for)
        self._watchers.forget_all()
        self._say(connection, edge, ONLINE)
        if self._unsaid:
            self._may_say.set()
        edge.on_connected()

    def _say(self, connection: Connection, edge: Edge, status: str) -> None:
        connection.send(SYS_STATUS, edge.status(status), retain=True)

    def _remember(self, topic: str, payload: bytes) -> None:
        self._unsaid[topic] = payload
        if self._connection is not None:
            self._may_say.set()

    async def _catch_up(self) -> None:
        """Publish what could not be, as fast as the broker takes it."""
        while True:
            await self._may_say.wait()
            self._may_say.clear()
            while (connection := self._connection) is not None and self._unsaid:
                await connection.drained()
                if connection is not self._connection:
                    continue
                topic, payload = next(iter(self._unsaid.items()))
                del self._unsaid[topic]
                if not connection.send(topic, payload, retain=True):
                    log.error("the broker takes nothing as large as what is to be retained on %s", topic)


def _is_here(host: str) -> bool:
    """Whether a host is this machine by its name alone."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
