"""`pingup agent run`: the agent on a device, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from pingup.cli.exits import one_line_errors
from pingup.settings import LogLevel

_PATH = click.Path(path_type=Path)


@click.group
def agent() -> None:
    """The device side: measures, scans, reports, carries out commands."""


@agent.command
@click.option("--config", type=_PATH, help="A TOML file with settings.")
@click.option("--id", help="The id that the agent is registered under.")
@click.option("--url", help="The broker: mqtt://host:port or mqtts://host:port.")
@click.option("--ca-file", type=_PATH, help="Certificates to trust with mqtts, instead of the system's.")
@click.option("--secret-file", type=_PATH, help="The file with the agent's secret. [PINGUP_AGENT_SECRET]")
@click.option("--seed-file", type=_PATH, help="Ed25519: the file with the private key's seed, in base64.")
@click.option("--token-file", type=_PATH, help="Ed25519: the file with the agent's token.")
@click.option("--server-public-key", help="Ed25519: the server's public key, in base64.")
@click.option("--interval", metavar="SECONDS", help="Seconds between samples. [10]")
@click.option("--latency-target", metavar="HOST:PORT", help="What latency is measured to. [the broker]")
@click.option("--disk", help="A path on the file system that is measured. [/]")
@click.option("--scan-range", multiple=True, metavar="CIDR", help="A network to scan; may be repeated.")
@click.option("--scan-port", multiple=True, metavar="PORT", help="A port to scan; may be repeated.")
@click.option("--scan-interval", metavar="SECONDS", help="Seconds between scans. [only on command]")
@click.option("--data-dir", type=_PATH, help="Where its spool and journal are kept. [./pingup-agent/ID]")
@click.option("--log-level", metavar=f"[{'|'.join(LogLevel)}]", help="[info]")
@click.option("--once", is_flag=True, help="Connect, send one sample and end; 5 if that can't be done.")
def run(config: Path | None, once: bool, **flags: Any) -> None:
    """Run the agent.

    Every flag is a setting that may also stand in the environment (PINGUP_AGENT_URL,
    PINGUP_AGENT_SCAN__RANGES) or in the file; allow-lists of services and programs only there.
    """
    with one_line_errors():
        from pingup.agent.run import Agent
        from pingup.agent.settings import load
        from pingup.log import set_up
        from pingup.settings import LogSettings

        settings = load(flags=_by_setting(flags), environ=os.environ, config=config)
        set_up(LogSettings(level=settings.log_level))
        device = Agent(settings)
        asyncio.run(_until_stopped(device.run_once if once else device.run))


_SECTIONED = {
    "latency_target": "latency.target",
    "scan_range": "scan.ranges",
    "scan_port": "scan.ports",
    "scan_interval": "scan.interval",
}


def _by_setting(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags by the names of their settings; one that may be repeated and is not there is not given."""
    return {_SECTIONED.get(name, name): value for name, value in flags.items() if value != ()}


async def _until_stopped(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Work until SIGTERM or SIGINT, which end it cleanly."""
    loop = asyncio.get_running_loop()
    working = loop.create_task(work())
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, working.cancel)
    with suppress(asyncio.CancelledError):
        await working
