"""amqtt's session without its state machine, and with what we keep of a client that receives."""

from __future__ import annotations

import time
from typing import Any, cast

from amqtt.session import Session

from pingup.brokers.greeting import Login
from pingup.brokers.limits import Limits
from pingup.brokers.subscriber import Subscriber
from pingup.clock import Clock


class _States:
    """The states of a session, by the names that amqtt asks for."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.state = "new"

    def connect(self) -> None:
        self.state = "connected"
        self._session.last_connect_time, self._session.last_disconnect_time = _now(), None

    def disconnect(self) -> None:
        self.state = "disconnected"
        self._session.last_disconnect_time = _now()


class HardenedSession(Session):
    """A client's session, connected or kept."""

    def __init__(self, login: Login, *, clean: bool, limits: Limits, clock: Clock) -> None:
        super().__init__()
        self.client_id = login.client_id
        self.clean_session = clean
        self.subscriber = Subscriber(
            self, client_id=login.client_id, principal=login.principal, limits=limits, clock=clock
        )

    def _init_states(self) -> None:
        """amqtt: a state machine of the package `transitions` for each session, 0.3 ms and 20 KB of it."""
        self.transitions = cast("Any", _States(self))


def _now() -> int:
    """Whole seconds, by the clock that amqtt's expiry of sessions goes by."""
    return int(time.time())
