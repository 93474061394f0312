"""`pingup broker sync`: bring everybody's account to a broker elsewhere."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from pingup.cli.exits import NOT_ALLOWED, UNREACHABLE, leave, one_line_errors
from pingup.cli.options import read_settings
from pingup.errors import NotAllowed, Unavailable
from pingup.model import Reconciled
from pingup.settings import Settings

_PATH = click.Path(path_type=Path)


@click.group
def broker() -> None:
    """A broker elsewhere, in place of the embedded one."""


@broker.command
@click.option("--config", type=_PATH, help="A TOML file with settings.")
@click.option("--data-dir", type=_PATH, help="The server's data directory. [./pingup-data]")
@click.option("--mqtt-url", metavar="URL", help="How the server logs in: mqtt://server:PASSWORD@HOST.")
@click.option("--control-url", metavar="URL", help="How an administrator does: mqtt://USER:PASSWORD@HOST.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sync(as_json: bool, **flags: Any) -> None:
    """Bring agents, API tokens and the server into Mosquitto's dynamic security.

    Creates, changes and removes only what differs, and only what is Pingup's. A server that runs with the
    setting mqtt.control_url does so by itself; this works beside it, too. URLs with passwords are better kept
    in files that PINGUP_MQTT__URL_FILE and PINGUP_MQTT__CONTROL_URL_FILE name than given as flags.
    """
    with one_line_errors():
        done = _synchronise(read_settings(flags))
        if as_json:
            click.echo(_as_json(done))
        else:
            _show(done)


def _synchronise(settings: Settings) -> Reconciled:
    from pingup.clock import SystemClock
    from pingup.provisioning import synchronise  # late: the server's packages

    try:
        return asyncio.run(synchronise(settings, SystemClock()))
    except NotAllowed as problem:
        leave(str(problem), NOT_ALLOWED)
    except Unavailable as problem:
        leave(str(problem), UNREACHABLE)


def _as_json(done: Reconciled) -> str:
    from pingup import codec
    from pingup.services.accounts import in_words

    unsettled = [
        {"username": one.username, "obstacle": one.obstacle, "detail": in_words(one.obstacle)}
        for one in done.unsettled
    ]
    members = {"created": done.created, "changed": done.changed, "removed": done.removed}
    return codec.encode({**members, "unsettled": unsettled}).decode()


def _show(done: Reconciled) -> None:
    from pingup.services.accounts import in_words

    for what, names in (("created", done.created), ("changed", done.changed), ("removed", done.removed)):
        for name in names:
            click.echo(f"{what} {name}")
    if not (done.created or done.changed or done.removed):
        click.echo("nothing to do")
    for one in done.unsettled:
        click.echo(f"pingup: {one.username} cannot use the broker: {in_words(one.obstacle)}", err=True)
