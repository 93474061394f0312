"""The command line: one file a group of commands, each loaded when it is called."""

from __future__ import annotations

import os
from importlib import import_module

import click

from pingup import __version__

# By command: the module that holds it, and its line in the list. The agent alone must start without the
# server's packages, and nobody should wait for the imports of a command that was not called.
_COMMANDS = {
    "agent": ("pingup.cli.agent", "Run the agent on a device."),
    "bench": ("pingup.cli.bench", "Measure speed and memory on this machine."),
    "broker": ("pingup.cli.broker", "Bring accounts to a broker elsewhere."),
    "demo": ("pingup.cli.demo", "Run a server and three agents, to look at."),
    "migrate": ("pingup.cli.migrate", "Bring the databases to this version."),
    "serve": ("pingup.cli.serve", "Run the server."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in sorted(_COMMANDS.items())])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pingup", message="%(prog)s %(version)s")
def main() -> None:
    """Pingup: signed telemetry in, signed commands out, over MQTT."""
    # Whatever is written, databases and journals too, is for its owner's eyes only.
    os.umask(0o077)
