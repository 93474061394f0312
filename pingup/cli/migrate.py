"""`pingup migrate`: bring the databases to this version; `pingup serve` does so by itself."""

from __future__ import annotations

from typing import Any

import click

from pingup.cli.exits import one_line_errors
from pingup.cli.options import read_settings, server_options


@click.command
@server_options
def migrate(**flags: Any) -> None:
    """Bring the databases in the data directory to this version. The server must not be running."""
    with one_line_errors():
        settings = read_settings(flags)
        from pingup import app  # late: the server's packages

        applied = app.migrate(settings)
        for name in applied:
            click.echo(f"applied {name}")
        if not applied:
            click.echo("nothing to do")
