"""What a command can make the agent do, a method an action."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from pingup.agent.discover import Discovery
from pingup.agent.execute import Run, run_program
from pingup.agent.scan import check_ranges
from pingup.agent.settings import AgentSettings, Port
from pingup.agent.tuning import BadTuning, Tuner
from pingup.clock import Clock
from pingup.codec import encode
from pingup.errors import PingupError
from pingup.model import CommandStatus
from pingup.sources import in_words

# Well below what a whole message may have.
MAX_RESULT = 48 * 1024


class Ended(msgspec.Struct, frozen=True):
    """How a command ended; `result` is JSON."""

    status: CommandStatus
    result: bytes


class NotAllowed(PingupError):
    """The command asks for what this agent doesn't do; nothing was done."""


class _ScanNetwork(msgspec.Struct, frozen=True):
    """Both are the configured ones when absent; ranges lie within those that the device allows."""

    ranges: tuple[str, ...] | None = None
    ports: Annotated[tuple[Port, ...], Meta(min_length=1)] | None = None


class _RestartService(msgspec.Struct, frozen=True):
    service: str


_Word = Annotated[str, Meta(pattern=r"^[^\0]*\Z")]


class _Execute(msgspec.Struct, frozen=True):
    """Either `argv`, or `program` with `args`; `timeout` in seconds shortens the device's own limit."""

    argv: Annotated[tuple[_Word, ...], Meta(min_length=1)] | None = None
    program: _Word | None = None
    args: tuple[_Word, ...] = ()
    timeout: Annotated[float, Meta(gt=0)] | None = None


P = TypeVar("P")
_Action = Callable[[dict[str, Any]], Awaitable[Ended]]


class Actions:
    """The actions by name."""

    def __init__(self, settings: AgentSettings, tuner: Tuner, discovery: Discovery, clock: Clock) -> None:
        self._settings = settings
        self._tuner = tuner
        self._discovery = discovery
        self._clock = clock
        self._table: dict[str, _Action] = {
            "ping": self._ping,
            "update_config": self._update_config,
            "scan_network": self._scan_network,
            "restart_service": self._restart_service,
            "execute": self._execute,
        }

    async def perform(self, action: str, params: dict[str, Any]) -> Ended:
        """Carry out an action; whatever can be expected to go wrong is in the result."""
        if action not in self._table:
            return _rejected(f"unknown action {action!r}; there are {', '.join(self._table)}")
        try:
            return await self._table[action](params)
        except (NotAllowed, BadTuning) as problem:
            return _rejected(str(problem))
        except msgspec.ValidationError as problem:
            return _rejected(f"bad params: {in_words(problem)}")
        except OSError as problem:
            return _ended(CommandStatus.FAILED, {"error": str(problem)})

    async def _ping(self, params: dict[str, Any]) -> Ended:
        return _ended(CommandStatus.COMPLETED, {"pong": True, "at": self._clock.now()})

    async def _update_config(self, params: dict[str, Any]) -> Ended:
        await self._tuner.update(params)
        return _ended(CommandStatus.COMPLETED, {"config": self._tuner.current})

    async def _scan_network(self, params: dict[str, Any]) -> Ended:
        wanted = msgspec.convert(params, _ScanNetwork)
        configured = self._tuner.current.scan
        ranges = configured.ranges if wanted.ranges is None else wanted.ranges
        if not ranges:
            raise NotAllowed("this agent has no ranges to scan")
        ports = configured.ports if wanted.ports is None else wanted.ports
        try:
            plan = check_ranges(ranges, ports, self._settings.scan.ceiling)
        except ValueError as problem:
            raise NotAllowed(str(problem)) from problem
        found = await self._discovery.scan(plan)
        open_ports = sum(len(host.ports) for host in found.hosts)
        summary = {"hosts": len(found.hosts), "openPorts": open_ports, "duration": found.duration}
        return _ended(CommandStatus.COMPLETED, summary)

    async def _restart_service(self, params: dict[str, Any]) -> Ended:
        service = msgspec.convert(params, _RestartService).service
        services = self._settings.services
        if service not in services.allowed:
            raise NotAllowed(f"this agent is not allowed to restart {service!r}")
        return _of_run(
            await run_program(
                (*services.command, service),
                timeout=services.timeout,
                max_output=self._settings.execute.max_output,
            )
        )

    async def _execute(self, params: dict[str, Any]) -> Ended:
        wanted = msgspec.convert(params, _Execute)
        if (wanted.argv is None) == (wanted.program is None):
            raise NotAllowed("params need either argv, or program and args")
        argv = wanted.argv or (wanted.program or "", *wanted.args)
        limits = self._settings.execute
        if argv[0] not in limits.programs:
            raise NotAllowed(f"this agent is not allowed to execute {argv[0]!r}")
        timeout = min(limits.timeout, wanted.timeout or limits.timeout)
        return _of_run(await run_program(argv, timeout=timeout, max_output=limits.max_output))


def _rejected(error: str) -> Ended:
    return _ended(CommandStatus.REJECTED, {"error": error[:1024]})


def _of_run(run: Run) -> Ended:
    """A program's run as a result that is small enough: control characters grow sixfold in JSON."""
    is_good = run.exit_code == 0 and run.error is None
    status = CommandStatus.COMPLETED if is_good else CommandStatus.FAILED
    while len(encode(run)) > MAX_RESULT:
        stdout, stderr = run.stdout[: len(run.stdout) // 2], run.stderr[: len(run.stderr) // 2]
        run = msgspec.structs.replace(run, stdout=stdout, stderr=stderr, truncated=True)
    return _ended(status, run)


def _ended(status: CommandStatus, result: Any) -> Ended:
    return Ended(status, encode(result))
