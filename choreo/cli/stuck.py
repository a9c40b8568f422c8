"""`choreo stuck`: all that waits and does not go on, by cause."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from choreo.cli import completion
from choreo.cli.app import check_names, is_known, nobody, say, speaking
from choreo.cli.figures import count
from choreo.cli.spans import SPAN
from choreo.cli.tables import screen, table, text, whole
from choreo.observe.stuck import Stuck
from choreo.service import Service
from choreo.store.schedule import DELAYED


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE|HANDLER]...", shell_complete=completion.services_and_handlers)
@click.option(
    "--older", type=SPAN, default=0.0, metavar="TIME", help="Only what is stuck for longer: 30s, 10m, 2h, 1d."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def stuck(app: Service, names: tuple[str, ...], older: float, as_json: bool) -> None:
    """
    Show all that is stuck, by cause, with the next step.

    The oldest comes first: messages that no worker takes, messages that come back because their worker dies, retries
    and deadlines that no worker sends, joins and stories past their deadline, and dead letters.

    The exit code is 1 if anything is stuck, and if no service is known: it may be the wrong place.
    """
    check_names(app, names, app.runtime.store.handlers())
    found = app.observe.stuck(*names, older=older)
    if not found and not is_known(app):
        raise click.ClickException(nobody(app))
    if as_json:
        for one in found:
            say(json.dumps(one.to_dict()))
    elif not found:
        say("Nothing is stuck.")
    else:
        _print(found)
    if found:
        click.get_current_context().exit(1)


def _print(found: Sequence[Stuck]) -> None:
    rows = table("SINCE (UTC)", "WHAT", "COUNT", "CAUSE", kept=("SINCE (UTC)", "COUNT"), right=("COUNT",))
    for one in found:
        rows.add_row(*map(text, _row(one)))
    steps = dict.fromkeys(one.do for one in found if one.do)
    whole(screen(), rows, *(text(("DO", "bold"), f"  {step}") for step in steps))


def _row(one: Stuck) -> list[str]:
    at = "" if one.since is None else f"{datetime.fromtimestamp(one.since, UTC):%m-%d %H:%M:%S}"
    who = f": {', '.join(one.subjects)}{', ...' if one.count > len(one.subjects) else ''}" if one.subjects else ""
    what = "delayed events" if one.what == DELAYED else one.what
    return [at, what, count(one.count), f"{one.cause}{f' ({one.detail})' if one.detail else ''}{who}"]
