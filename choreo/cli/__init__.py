"""The `choreo` command line."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from choreo import __version__
from choreo.cli.folding import folded_errors, told
from choreo.cli.group import Group
from choreo.cli.where import connecting
from choreo.errors import ChoreoError
from choreo.printing import lines

#: The name of each command, and its place. A command is imported when it is asked for: `choreo up` starts processes and
#: reads packages, and the others need nothing of that.
_COMMANDS = {
    "can-deploy": ("choreo.cli.can_deploy", "can_deploy"),
    "check": ("choreo.cli.check", "check"),
    "dead-letters": ("choreo.cli.dead_letters", "dead_letters"),
    "effects": ("choreo.cli.effects", "effects"),
    "events": ("choreo.cli.events", "events"),
    "joins": ("choreo.cli.joins", "joins"),
    "map": ("choreo.cli.map", "map_"),
    "metrics": ("choreo.cli.metrics", "metrics"),
    "pause": ("choreo.cli.pauses", "pause"),
    "publish": ("choreo.cli.publish", "publish"),
    "repairs": ("choreo.cli.repairs", "repairs"),
    "resume": ("choreo.cli.pauses", "resume"),
    "rerun": ("choreo.cli.rerun", "rerun"),
    "schedule": ("choreo.cli.schedule", "schedule"),
    "stories": ("choreo.cli.stories", "stories"),
    "stuck": ("choreo.cli.stuck", "stuck"),
    "top": ("choreo.cli.top", "top"),
    "topology": ("choreo.cli.topology", "topology"),
    "trace": ("choreo.cli.trace", "trace"),
    "up": ("choreo.cli.up", "up"),
    "web": ("choreo.cli.web", "web"),
    "why-not": ("choreo.cli.why_not", "why_not"),
}


class Commands(Group):
    """A group that imports its commands late."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the whole command line. Errors are folded to the terminal."""
        with folded_errors():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Errors are folded to the terminal."""
        with folded_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted({*super().list_commands(ctx), *_COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; None if there is none."""
        if cmd_name in _COMMANDS and cmd_name not in self.commands:
            module, attribute = _COMMANDS[cmd_name]
            self.add_command(getattr(import_module(module), attribute))
        return super().get_command(ctx, cmd_name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="choreo %(version)s")
@connecting
def choreo() -> None:
    """
    Event choreography on Celery.

    Run a worker with Celery's own command: `celery -A handlers.payment worker`.
    """


def main() -> None:
    """Run the command line. An error of choreo is printed as one line on stderr, and the exit code is 1."""
    # Unlike `python -m`, a console script does not import modules from the current directory.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        choreo(prog_name="choreo")
    except ChoreoError as error:
        raise SystemExit(told(f"Error: {lines(str(error))}")) from error
