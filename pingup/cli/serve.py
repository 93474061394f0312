"""`pingup serve`: the server, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from typing import Any

import click

from pingup.cli.exits import one_line_errors
from pingup.cli.options import read_settings, server_options
from pingup.garbage import put_off_garbage, settle
from pingup.settings import Settings


@click.command
@server_options
def serve(**flags: Any) -> None:
    """Run the server: REST, the embedded broker and the databases, in one process."""
    put_off_garbage()
    with one_line_errors():
        settings = read_settings(flags)
        from pingup.log import set_up

        set_up(settings.log)
        _allow_many_connections()
        asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from pingup import app  # late: the server's packages

    stop = stop_on_signals()
    async with app.serve(settings) as pingup:
        if pingup.new_admin_token is not None:
            path = settings.data_dir / "admin.token"
            print(f"pingup admin token (kept in {path}): {pingup.new_admin_token}", file=sys.stderr)
        print(f"pingup ready http={pingup.http_url} mqtt={pingup.mqtt_url}", flush=True)
        settle()
        await pingup.crew.until(stop)


def _allow_many_connections() -> None:
    """Each agent is an open file, and the usual limit of 1,024 is there for the sake of old programs."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    return stop
