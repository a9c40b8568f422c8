"""The `choreo` command line."""

import sys
from pathlib import Path

import click

from choreo.cli.dead_letters import dead_letters
from choreo.cli.joins import joins
from choreo.cli.publish import publish
from choreo.cli.schedule import schedule
from choreo.cli.up import up
from choreo.errors import ChoreoError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="choreo", message="choreo %(version)s")
def choreo() -> None:
    """
    Event choreography on Celery.

    Run a worker with Celery's own command: `celery -A handlers.payment worker`.
    """


choreo.add_command(up)
choreo.add_command(publish)
choreo.add_command(dead_letters)
choreo.add_command(joins)
choreo.add_command(schedule)


def main() -> None:
    """Run the command line. An error of choreo is printed as one line on stderr, and the exit code is 1."""
    # Unlike `python -m`, a console script does not import modules from the current directory.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        choreo(prog_name="choreo")
    except ChoreoError as error:
        raise SystemExit(f"Error: {error}") from error
