"""A connect scan: which hosts of which networks accept connections on which ports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

import msgspec

from pingup.agent.probe import IpAddress, connect_time
from pingup.model import Host, Scan

MAX_ADDRESSES = 65_536
MAX_PORTS = 4_096
MAX_PROBES = 1_048_576
CONCURRENCY = 128
PROBE_TIMEOUT = 1.0

Network = IPv4Network | IPv6Network


class Plan(msgspec.Struct, frozen=True):
    """What a scan tries: every port on every host of the networks, which don't overlap."""

    networks: tuple[Network, ...]
    ports: tuple[int, ...]

    def probes(self) -> Iterator[tuple[IpAddress, int]]:
        for network in self.networks:
            for ip in network.hosts():
                for port in self.ports:
                    yield ip, port


def check_ranges(ranges: Sequence[str], ports: Sequence[int], ceiling: Sequence[str]) -> Plan:
    """The plan for these ranges and ports.

    Args:
        ranges: networks in CIDR notation, or single addresses.
        ports: TCP ports.
        ceiling: the networks that may be scanned at all.

    Raises:
        ValueError: no network, a network outside of the ceiling, or more than one scan may try.
    """
    allowed = _collapse(ceiling)
    networks = _collapse(ranges)
    for network in networks:
        if not any(_is_inside(network, outer) for outer in allowed):
            raise ValueError(f"{network} is outside of what this agent is allowed to scan")
    plan = Plan(networks, tuple(sorted(set(ports))))
    addresses = sum(network.num_addresses for network in networks)
    if addresses > MAX_ADDRESSES:
        raise ValueError(f"{addresses:,} addresses, one scan takes at most {MAX_ADDRESSES:,}")
    if len(plan.ports) > MAX_PORTS:
        raise ValueError(f"{len(plan.ports):,} ports, one scan takes at most {MAX_PORTS:,}")
    if addresses * len(plan.ports) > MAX_PROBES:
        raise ValueError(
            f"{addresses:,} addresses by {len(plan.ports):,} ports, one scan tries at most {MAX_PROBES:,}"
        )
    return plan


def _collapse(ranges: Sequence[str]) -> tuple[Network, ...]:
    networks = [ip_network(text, strict=False) for text in ranges]
    old = collapse_addresses(network for network in networks if isinstance(network, IPv4Network))
    new = collapse_addresses(network for network in networks if isinstance(network, IPv6Network))
    return (*old, *new)


def _is_inside(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network) and inner.subnet_of(outer)


async def scan(agent_id: str, started_at: datetime, plan: Plan, concurrency: int = CONCURRENCY) -> Scan:
    """Try everything in the plan, at most `concurrency` connections at a time.

    Returns:
        The hosts with an open port, by address; their latency is that of the quickest one.

    Raises:
        OSError: this machine has no socket left.
    """
    started = time.perf_counter()
    probes = plan.probes()
    found: dict[IpAddress, dict[int, float]] = {}

    async def work() -> None:
        for ip, port in probes:
            latency = await connect_time(ip, port, PROBE_TIMEOUT)
            if latency is not None:
                found.setdefault(ip, {})[port] = latency

    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    duration = round((time.perf_counter() - started) * 1000)
    return Scan(agent_id, started_at, duration, tuple(_hosts(found)))


def _hosts(found: dict[IpAddress, dict[int, float]]) -> Iterator[Host]:
    for ip in sorted(found, key=lambda ip: (ip.version, int(ip))):
        latencies = found[ip]
        yield Host(str(ip), round(min(latencies.values())), tuple(sorted(latencies)))
