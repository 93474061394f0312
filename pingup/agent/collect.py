"""What the machine says of itself: processor, memory, disk, and the latency to a host."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

import psutil

from pingup.agent.messages import Measurement
from pingup.agent.probe import Address, connect_time, resolve
from pingup.agent.settings import Tuning, parse_address

NO_ANSWER = -1.0
LATENCY_TIMEOUT = 2.0
_log = logging.getLogger(__name__)


class EchoUnavailable(Exception):
    """Echo requests can't be sent here: the package icmplib or the right to do so is missing."""


class Collector:
    """Takes measurements. The processor's load is the average since the one before."""

    def __init__(self, broker: Address) -> None:
        """`broker` is what latency is measured to, unless a target is configured."""
        self._broker = broker
        self._may_echo = True
        self._disk_problem: str | None = None
        psutil.cpu_percent()

    async def measure(self, tuning: Tuning) -> Measurement:
        latency, disk = await asyncio.gather(self._latency(tuning), self._disk(tuning.disk))
        return Measurement(psutil.cpu_percent(), psutil.virtual_memory().percent, disk, latency)

    async def _disk(self, path: str) -> float | None:
        try:
            usage = await asyncio.to_thread(psutil.disk_usage, path)
        except (OSError, ValueError) as problem:
            if self._disk_problem != path:
                _log.warning("cannot measure the disk of %r: %s", path, problem)
            self._disk_problem = path
            return None
        self._disk_problem = None
        return float(usage.percent)

    async def _latency(self, tuning: Tuning) -> float:
        target = tuning.latency.target
        address = self._broker if target is None else parse_address(target)
        latency: float | None = None
        if tuning.latency.method == "icmp" and self._may_echo:
            try:
                latency = await _echo_time(address.host)
            except EchoUnavailable as problem:
                self._may_echo = False
                _log.warning("latency is measured by TCP: %s", problem)
        if tuning.latency.method == "tcp" or not self._may_echo:
            latency = await _tcp_time(address)
        return NO_ANSWER if latency is None else round(latency, 3)


async def _tcp_time(address: Address) -> float | None:
    ip = await resolve(address.host, LATENCY_TIMEOUT)
    return None if ip is None else await connect_time(ip, address.port, LATENCY_TIMEOUT)


class _Answer(Protocol):
    """What icmplib answers; it comes without types."""

    is_alive: bool
    avg_rtt: float


async def _echo_time(host: str) -> float | None:
    """Milliseconds until a host answered an echo request (RFC 792), None when it did not."""
    try:
        import icmplib
    except ImportError as problem:
        raise EchoUnavailable("the package icmplib is not installed") from problem
    # A datagram socket where the system allows them (net.ipv4.ping_group_range), else a raw one.
    for privileged in (False, True):
        try:
            answer: _Answer = await icmplib.async_ping(
                host, count=1, timeout=LATENCY_TIMEOUT, privileged=privileged
            )
        except icmplib.SocketPermissionError:
            continue
        except icmplib.ICMPLibError:
            return None
        return answer.avg_rtt if answer.is_alive else None
    raise EchoUnavailable("this user may not send echo requests")
