"""`choreo stuck`: all that waits and does not go on, by cause."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime

import click
from rich.text import Text

from choreo.cli import completion
from choreo.cli.app import check_names, is_known, nobody, say, speaking, tell
from choreo.cli.spans import SPAN
from choreo.cli.tables import screen, show, table, text, unwrapped
from choreo.cli.verdict import wrapped
from choreo.observe.figures import count
from choreo.observe.stuck import Stuck
from choreo.service import Service
from choreo.store.schedule import DELAYED

#: Columns of a row beside the name of the handler: the time, the number, and some for the cause.
BESIDE = 46
#: Columns of the time and the number; and of these with some for the name of the handler.
TIME_AND_COUNT, LEFT = 28, 37
#: A next step that begins so is a command.
_COMMANDS = ("celery ", "choreo ", "redis-cli ")


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
    and deadlines that no worker sends, joins and stories past their deadline, dead letters, and a Redis that
    evicts keys.

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
    if not names:
        _note_policies(app)
    if found:
        click.get_current_context().exit(1)


def _note_policies(app: Service) -> None:
    """Tell on stderr of servers that would evict keys, and have no limit yet: nothing is stuck for that."""
    with closing(app.observe.watch()) as looking:
        for server in looking.servers():
            if server.eviction and not server.limit and not server.evicted:
                note = f"Note: Redis at {server.name}: {server.eviction}. Set maxmemory-policy noeviction."
                tell(note)


def _print(found: Sequence[Stuck]) -> None:
    console = screen()
    rows = [_row(one) for one in found]
    names = () if console.is_terminal else ("WHAT",)
    longest = max(len(subject) for one in found for subject in ["", *one.subjects]) + len(",")
    if names:
        # In a pipe a name is never broken, so that grep finds it.
        console.width = max(
            console.width, max(len(what) for _, what, _, _ in rows) + max(BESIDE, TIME_AND_COUNT + longest)
        )
    shown = table("SINCE (UTC)", "WHAT", "COUNT", "CAUSE", kept=("SINCE (UTC)", *names, "COUNT"), right=("COUNT",))
    # A subject is not broken either: it can be copied.
    shown.columns[-1].min_width = min(longest, console.width - LEFT)
    for row in rows:
        shown.add_row(*map(text, row))
    show(console, shown)
    steps = dict.fromkeys(tuple(one.do) for one in found)
    unwrapped(console, *(line for step in steps for line in _step(step, console.width)))


def _step(steps: Sequence[str], width: int) -> Iterator[Text]:
    """The lines of next steps. Prose is wrapped; a command is one line, however long it is."""
    for number, step in enumerate(steps):
        before = "      " if number else "DO  "
        whole = before + (f"{step}, or:" if number < len(steps) - 1 else step)
        is_whole = len(whole) <= width or step.startswith(_COMMANDS)
        lines = [whole] if is_whole else wrapped(whole, " " * len(before)).splitlines()
        yield from (text(("DO", "bold"), line[2:]) if line.startswith("DO") else text(line) for line in lines)


def _row(one: Stuck) -> list[str]:
    at = "" if one.since is None else f"{datetime.fromtimestamp(one.since, UTC):%m-%d %H:%M:%S}"
    who = f": {', '.join(one.subjects)}{', ...' if one.count > len(one.subjects) else ''}" if one.subjects else ""
    what = "delayed events" if one.what == DELAYED else one.what
    return [at, what, count(one.count), f"{one.cause}{f' ({one.detail})' if one.detail else ''}{who}"]
