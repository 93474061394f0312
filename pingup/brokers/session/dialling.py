"""How a connection comes about: name, TCP over whichever of IPv6 and IPv4 answers, TLS, CONNECT."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

from pingup.brokers.session import reasons
from pingup.brokers.session.connection import Connection, OnMessages
from pingup.brokers.session.options import Options, Tls
from pingup.errors import Unavailable, Unusable

_NEXT_ADDRESS_AFTER = 0.25  # seconds (RFC 8305, section 8)


@asynccontextmanager
async def connect(options: Options, on_messages: OnMessages) -> AsyncIterator[Connection]:
    """A connection for as long as the context lasts; it ends with a goodbye.

    Raises:
        Unavailable: it can't be had; the text says why in plain words.
    """
    connection = Connection(options, on_messages)
    await dial(connection)
    try:
        yield connection
    finally:
        await connection.disconnect()


async def dial(connection: Connection) -> None:
    """Have a new connection accepted by its broker. The caller ends it.

    Raises:
        Unavailable: that failed, or took longer than `connect_within`; the text says why in plain words.
    """
    options = connection.options
    try:
        async with asyncio.timeout(options.connect_within):
            await _open(connection)
            await connection.greet()
    except TimeoutError as problem:
        raise Unavailable(
            f"no answer from {options.address} within {options.connect_within:g} s"
        ) from problem
    except (OSError, Unavailable) as problem:
        words = reasons.of_error(problem) if isinstance(problem, OSError) else str(problem)
        if connection.line.is_reset or isinstance(problem, ConnectionResetError):
            words += "; perhaps only one side expects TLS"
        raise Unavailable(f"cannot connect to {options.address}: {words}") from problem
    finally:
        if not connection.is_accepted:
            connection.abort()


async def _open(connection: Connection) -> None:
    options = connection.options
    context = None
    if options.tls is not None:
        # Read anew each time, so that a renewed certificate counts; in a thread, since it takes its time.
        context = await asyncio.to_thread(tls_context, options.tls)
    await asyncio.get_running_loop().create_connection(
        lambda: connection.line,
        options.host,
        options.port,
        ssl=context,
        server_hostname=options.host if context is not None else None,
        # asyncio forgets a socket when it is cancelled in a race, and one address needs none.
        happy_eyeballs_delay=None if _is_address(options.host) else _NEXT_ADDRESS_AFTER,
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def tls_context(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 or newer, which checks the broker's certificate and its host name.

    Raises:
        OSError: a file can't be read, or holds something else (`ssl.SSLError`).
    """
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.cert_file is not None:
        # Without a password for its key OpenSSL would ask for one on the terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: "")
    return context


def check_tls(tls: Tls) -> None:
    """Look whether the files can be used; this blocks.

    Raises:
        Unusable: one can't; the text says which.
    """
    for what, files in (("CA file", Tls(tls.ca_file)), ("client certificate or its key", tls)):
        try:
            tls_context(files)
        except OSError as problem:
            raise Unusable(f"MQTT: the {what} cannot be used: {reasons.of_error(problem)}", 2) from problem
