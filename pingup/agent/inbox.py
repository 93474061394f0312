"""What comes down from the server, handed to whom it concerns."""

from __future__ import annotations

import logging

from pingup.agent.commands import Commands
from pingup.agent.identity import Identity
from pingup.agent.messages import ConfigOrder, read_config, read_receipt, read_server_status
from pingup.agent.reports import Reports
from pingup.agent.sender import Sender
from pingup.agent.tuning import BadTuning, Tuner
from pingup.errors import Rejected

_log = logging.getLogger(__name__)


class Inbox:
    """The receiver of an agent's link."""

    def __init__(
        self, identity: Identity, tuner: Tuner, commands: Commands, reports: Reports, sender: Sender
    ) -> None:
        self._identity = identity
        self._tuner = tuner
        self._commands = commands
        self._reports = reports
        self._sender = sender

    async def born(self) -> None:
        """A session has begun: say what the last one may not have brought through."""
        self._sender.session()
        await self._commands.report_ends()

    async def command(self, payload: bytes) -> None:
        await self._commands.receive(payload)

    async def config(self, payload: bytes) -> None:
        """Apply a configuration that is newer than the one in force, and report."""
        try:
            self._identity.verify(payload)
            order = read_config(self._identity.agent_id, payload)
        except Rejected as problem:
            _log.warning("ignored a configuration: %s", problem)
            return
        if order.version < self._tuner.version:
            _log.info("ignored configuration %d: %d is in force", order.version, self._tuner.version)
            return
        # The one in force arrives with every session; reporting it again heals a report that was lost.
        error = None if order.version == self._tuner.version else await self._apply(order)
        self._reports.config(order.version, error)

    async def _apply(self, order: ConfigOrder) -> str | None:
        try:
            await self._tuner.apply(order.version, order.config)
        except BadTuning as problem:
            _log.warning("configuration %d is not applied: %s", order.version, problem)
            return str(problem)
        _log.info("configuration %d is in force", order.version)
        return None

    def receipt(self, payload: bytes) -> None:
        """Let go what the server has."""
        try:
            self._identity.verify(payload)
            self._sender.receipt(read_receipt(self._identity.agent_id, payload))
        except Rejected as problem:
            _log.warning("ignored a receipt: %s", problem)

    def server_status(self, payload: bytes) -> None:
        """Learn whether the server is there; only it may publish that, and nothing is freed by it."""
        is_there = read_server_status(payload)
        if is_there is not None:
            self._sender.server(there=is_there)
