"""How long a TCP connection takes to be accepted: the latency, and whether a port is open."""

from __future__ import annotations

import asyncio
import socket
import time
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

IpAddress = IPv4Address | IPv6Address


class Address(msgspec.Struct, frozen=True):
    """A host, by name or number, and a TCP port."""

    host: str
    port: int


async def connect_time(ip: IpAddress, port: int, timeout: float) -> float | None:
    """Milliseconds until `ip` accepted a connection; None when it refused or said nothing in `timeout` s.

    Raises:
        OSError: this machine has no socket left.
    """
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(connection, (str(ip), port))
        except OSError:  # a TimeoutError is one too
            return None
        return (time.perf_counter() - started) * 1000


async def resolve(host: str, timeout: float) -> IpAddress | None:
    """The first number of a host's name; None when it has none, or none in `timeout` s."""
    try:
        async with asyncio.timeout(timeout):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # ValueError: it can't be a name, with a label of 64 characters for one
        return None
    return ip_address(found[0][4][0])
