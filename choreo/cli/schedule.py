"""`choreo schedule`: shows the messages that wait in the store to be sent, and for how long they are due."""

import json
from dataclasses import asdict

import click

from choreo.cli import completion
from choreo.cli.app import check_names, say, shown_moment, speaking, tell
from choreo.durations import moment_of
from choreo.observe.words import span
from choreo.printing import one_line
from choreo.service import Service
from choreo.store import DELAYED, Backlog

_ROW = "{:<38}  {:>6}  {:>7}  {:>6}  {}"
#: Seconds after which a due message counts as late. Live workers are faster, also on a busy machine.
_LATE = 10.0


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE|HANDLER]...", shell_complete=completion.services_and_handlers)
@click.option("--all", "everything", is_flag=True, help="Include handlers for which nothing waits.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def schedule(app: Service, names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """
    Show the messages that wait to be sent.

    They are retries, deadlines of joins, delayed events, and the outbox. A live worker of the handler's service sends a
    DUE message within a quarter of a second.
    """
    backlog = _chosen(app, names)
    gone = [handler for handler in app.runtime.undeclared.find() if handler.handler in backlog]
    _print(backlog, everything=everything, as_json=as_json)
    for handler in gone:
        what = f"No worker declares {handler.handler} any more, and no worker reads its queue. Still there: {handler}."
        tell(f"\n{what}")


def _print(backlog: dict[str, Backlog], *, everything: bool, as_json: bool) -> None:
    shown = {name: waits for name, waits in backlog.items() if everything or waits.total}
    if as_json:
        for name, waits in shown.items():
            say(json.dumps({"handler": name, **asdict(waits)}))
        return
    if not shown:
        say("Nothing waits to be sent.")
        return
    say(_ROW.format("HANDLER", "DUE", "FOR", "LATER", "NEXT (UTC)"))
    for name, waits in shown.items():
        say(_row(name, waits))
    late = sorted({_service(name) for name, waits in shown.items() if waits.late > _LATE})
    if late:
        tell(f"\nLate: is a worker of {', '.join(late)} running, and does it reach the broker?")


def _chosen(app: Service, names: tuple[str, ...]) -> dict[str, Backlog]:
    backlog = app.backlog()
    check_names(app, names, backlog)
    return {known: waits for known, waits in backlog.items() if not names or {known, _service(known)} & set(names)}


def _service(name: str) -> str:
    return "any service" if name == DELAYED else name.partition(".")[0]


def _row(name: str, waits: Backlog) -> str:
    shown = "delayed events" if name == DELAYED else one_line(name)
    late = span(waits.late) if waits.due else ""
    at = "" if waits.next_at is None else shown_moment(moment_of(waits.next_at), "%m-%d %H:%M:%S")
    return _ROW.format(shown, waits.due, late, waits.later, at).rstrip()
