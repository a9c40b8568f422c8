"""`choreo stuck`: all that waits and does not go on, by cause."""

import json
from datetime import UTC, datetime

import click
from rich.text import Text

from choreo.cli import completion
from choreo.cli.app import check_owners, say, speaking
from choreo.cli.figures import count
from choreo.cli.spans import SPAN
from choreo.cli.tables import Column, show, table, text
from choreo.observe.stuck import Stuck
from choreo.service import Service
from choreo.store.schedule import DELAYED

_COLUMNS = [Column("SINCE (UTC)"), Column("WHAT"), Column("COUNT", is_number=True), Column("CAUSE")]


@click.command()
@click.argument("owners", nargs=-1, metavar="[SERVICE|HANDLER]...", shell_complete=completion.owners)
@click.option(
    "--older", type=SPAN, default=0.0, metavar="TIME", help="Only what is stuck for longer: 30s, 10m, 2h, 1d."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def stuck(app: Service, owners: tuple[str, ...], older: float, as_json: bool) -> None:
    """
    Show all that is stuck, by cause, the oldest first, and the next step for each.

    Messages that no worker takes, messages that come back because their worker dies, retries and deadlines that no
    worker sends, joins past their deadline, dead letters, and what waits because of a pause.

    The exit code is 1 if anything is stuck.
    """
    check_owners(app, owners, app.runtime.store.handlers())
    found = app.observe.stuck(*owners, older=older)
    if as_json:
        for one in found:
            say(json.dumps(one.to_dict()))
    elif not found:
        say("Nothing is stuck.")
    else:
        show(table(_COLUMNS, map(_row, found)), *_steps(found))
    if found:
        click.get_current_context().exit(1)


def _row(one: Stuck) -> list[str]:
    at = "" if one.since is None else f"{datetime.fromtimestamp(one.since, UTC):%m-%d %H:%M:%S}"
    who = f" ({', '.join(one.subjects)}{', ...' if one.count > len(one.subjects) else ''})" if one.subjects else ""
    what = "delayed events" if one.what == DELAYED else one.what
    return [at, what, count(one.count), f"{one.cause}{who}"]


def _steps(found: list[Stuck]) -> list[Text]:
    return [text(f"DO  {step}") for step in dict.fromkeys(one.do for one in found if one.do)]
