"""`choreo schedule`: counts and lists the messages that wait in the store to be sent; hurries or drops some."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from choreo.cli import completion
from choreo.cli.app import check_named, check_names, say, shown_moment, speaking, tell, tell_asleep
from choreo.cli.folding import folded
from choreo.cli.group import Group
from choreo.cli.paging import rows
from choreo.cli.quiet import unlogged
from choreo.cli.verdict import say_steps, wrapped
from choreo.cli.where import connecting
from choreo.durations import moment_of
from choreo.errors import ScheduleError
from choreo.events.redaction import redacted
from choreo.observe.words import span
from choreo.printing import one_line
from choreo.service import Service
from choreo.store import DELAYED, Backlog

if TYPE_CHECKING:
    # `choreo schedule` itself counts, and needs none of this.
    from choreo.operate.schedule import Dropped, Entry

F = TypeVar("F", bound=Callable[..., Any])

_ROW = "{:<38}  {:>6}  {:>7}  {:>6}  {}"
_ENTRY = "{:<14}  {:<8}  {:<10}  {}"
#: The column in which the last field of an entry begins, and the one in which its subject does, on the next line.
_START, _SUBJECT = 38, 4
#: Seconds after which a due message counts as late. Live workers are faster, also on a busy machine.
_LATE = 10.0
#: The most entries that are listed, unless --limit says otherwise.
LIMIT = 50


class Schedule(Group):
    """A group whose command is `counts` if none is named: `choreo schedule payment`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that these arguments begin with, and its own arguments."""
        if args[0] in self.commands or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        return "counts", counts, args

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, and the names that `counts` takes."""
        names = completion.services_and_handlers(ctx, self.params[0], incomplete)
        return [*super().shell_complete(ctx, incomplete), *map(CompletionItem, names)]


@click.group("schedule", cls=Schedule, invoke_without_command=True, subcommand_metavar="[COMMAND [ARGS]...]")
@connecting
@click.option("--all", "everything", is_flag=True, help="Include handlers for which nothing waits.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_context
def schedule(context: click.Context, everything: bool, as_json: bool) -> None:
    """
    Count, list, hurry or drop what is sent later.

    That are retries, deadlines and delayed events. Without a command: `choreo schedule counts`.
    """
    if context.invoked_subcommand is None:
        context.invoke(counts, names=(), everything=everything, as_json=as_json)


@schedule.command()
@click.argument("names", nargs=-1, metavar="[SERVICE|HANDLER]...", shell_complete=completion.services_and_handlers)
@click.option("--all", "everything", is_flag=True, help="Include handlers for which nothing waits.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def counts(app: Service, names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """
    Count the messages that wait to be sent.

    They are retries, deadlines of joins, delayed events, and the outbox. A live worker of the handler's service sends a
    DUE message within a quarter of a second.
    """
    above = _above()
    backlog = _chosen(app, names)
    gone = [handler for handler in app.runtime.undeclared.find() if handler.handler in backlog]
    as_json = as_json or bool(above.get("as_json"))
    _print(backlog, everything=everything or bool(above.get("everything")), as_json=as_json)
    for handler in gone:
        what = f"No worker declares {handler.handler} any more, and no worker reads its queue. Still there: {handler}."
        tell(f"\n{what}")


@schedule.command("list")
@click.argument("names", nargs=-1, metavar="[SERVICE|HANDLER]...", shell_complete=completion.services_and_handlers)
@click.option("--subject", default="", metavar="ORD-1", help="Only what is about this subject.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=LIMIT,
    show_default=True,
    help="The most entries to list. 0: no limit.",
)
@click.option("--after", metavar="PLACE", default="", help="Continue an earlier list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def list_(app: Service, names: tuple[str, ...], subject: str, limit: int, after: str, as_json: bool) -> None:
    """
    List what waits to be sent, soonest first.

    Of all handlers, or of the given services or handlers; "delayed" are the delayed events that were announced outside
    of handlers. `choreo schedule now` and `drop` take the ID or the subject.
    """
    check_names(app, names, app.schedule.names)
    as_json = as_json or bool(_above().get("as_json"))

    def page(most: int, place: str) -> tuple[list[Entry], str]:
        return app.schedule.page(*names, subject=subject, limit=most, after=place)

    count = 0
    for count, (entry, place) in enumerate(rows(page, limit, after), start=1):
        if count == 1 and not as_json:
            say(_ENTRY.format("DUE (UTC)", "KIND", "ID", "HANDLER"))
        say(entry.to_json() if as_json else _listed(entry))
        if place:
            say(f"More: {_more(names, subject, limit, place)}", err=as_json)
    if not count and not as_json:
        about = f" about {one_line(subject)}" if subject else ""
        say(f"Nothing {'more ' if after else ''}waits to be sent{about}.")


def _choosing(command: F) -> F:
    """Decorator: adds the arguments that choose entries, and the reason."""
    for add in (
        click.option("--reason", default="", metavar="TEXT", help="The reason, for `choreo repairs`."),
        click.option(
            "--handler", metavar="NAME", help="Only of this handler.", shell_complete=completion.services_and_handlers
        ),
        click.argument("whats", nargs=-1, required=True, metavar="ID|SUBJECT...", shell_complete=completion.subjects),
    ):
        command = add(command)
    return command


@schedule.command()
@_choosing
@click.option("--yes", is_flag=True, help="Do not ask before a deadline.")
@speaking
def now(app: Service, whats: tuple[str, ...], handler: str | None, reason: str, yes: bool) -> None:
    """
    Let entries fall due now.

    A worker of the service sends them within a quarter of a second. A SUBJECT stands for its retries, replays and
    delayed events. A deadline is named by its ID, since its join or story ends then: on_timeout runs, the join becomes
    a dead letter, or the story is announced as overdue.

    The exit code is 1 if there is no such entry, or one has just left; the others fall due.
    """

    def hurry(entry: Entry) -> None:
        if entry.kind == "deadline" and not (yes or _confirmed(f"{_described(entry)} is over now. Go on?")):
            return
        app.schedule.now(entry.id, reason)
        say(wrapped(f"{_described(entry)}: due now."))
        if entry.handler != DELAYED:
            tell_asleep(app, entry.handler)

    _each(app, whats, handler, hurry)


@schedule.command()
@_choosing
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@speaking
def drop(app: Service, whats: tuple[str, ...], handler: str | None, reason: str, yes: bool) -> None:
    """
    Remove entries from the schedule.

    A retry becomes a dead letter (reason: dropped), which can be replayed or discarded. A delayed event is not
    announced; it is printed whole, and kept nowhere else. Deadlines cannot be dropped: `choreo joins cancel` forgets a
    join.

    The exit code is 1 if there is no such entry, or one has just left or cannot be dropped; the others are dropped.
    """

    def drop_one(entry: Entry) -> None:
        if not (yes or not entry.is_droppable or _confirmed(f"{_described(entry)} {_fate(entry)}. Drop it?")):
            return
        with unlogged("choreo.operate.schedule"), unlogged("choreo.delivery.notice"):
            dropped = app.schedule.drop(entry.id, reason)
        _tell_dropped(dropped)

    _each(app, whats, handler, drop_one)


def _above() -> dict[str, Any]:
    """The options that stand before the name of the command."""
    context = click.get_current_context()
    return context.parent.params if context.parent else {}


def _confirmed(question: str) -> bool:
    return click.confirm(wrapped(question))


def _each(app: Service, whats: Sequence[str], handler: str | None, change: Any) -> None:
    """Change every entry that is meant. Errors are printed; after all, the exit code is 1 if there was one."""
    if handler is not None:
        check_names(app, [handler], app.schedule.names)
    failed = False
    for what in whats:
        check_named(what, "ID|SUBJECT")
        entries, deadlines = _meant(app, what, handler)
        if not entries:
            tell(f"Error: {_none_of(what)}")
            failed = True
        for entry in entries:
            try:
                change(entry)
            except ScheduleError as error:
                tell(f"Error: {error}")
                failed = True
        _tell_deadlines(app, deadlines)
    if failed:
        raise SystemExit(1)


def _meant(app: Service, what: str, handler: str | None) -> tuple[list[Entry], list[Entry]]:
    """The entries that an argument names, and the deadlines that it does not mean."""
    found = app.schedule.find(what, *([handler] if handler else []))
    if len(found) == 1 and found[0].id == what:
        return found, []
    return [entry for entry in found if entry.is_droppable], [entry for entry in found if entry.kind == "deadline"]


def _none_of(what: str) -> str:
    return (
        f"No retry, replay or delayed event of {one_line(what)} waits in the schedule. `choreo schedule list` "
        f"shows what does, and `choreo trace {one_line(what)}` where else it may be."
    )


def _tell_deadlines(app: Service, deadlines: Sequence[Entry]) -> None:
    """Say in one line which deadlines of the subject stay, and what would end each."""
    if deadlines:
        ends = [f"`choreo schedule now {entry.id}` ends the {_waiting(app, entry)}" for entry in deadlines]
        tell(f"Deadlines stay as they are: {'; '.join(ends)}.")


def _waiting(app: Service, entry: Entry) -> str:
    """What the deadline of an entry ends: ``join driver.assign_driver``, ``story orders.order``."""
    described = json.loads(app.runtime.store.joins().get(entry.handler, "{}"))
    return one_line(f"{'story' if 'story' in described else 'join'} {entry.handler}")


def _fate(entry: Entry) -> str:
    if entry.kind == "delayed":
        return "is then never announced, and is printed once more"
    return "becomes a dead letter, which you can replay or discard; no other attempt is made"


def _tell_dropped(dropped: Dropped) -> None:
    entry, letter = dropped.entry, dropped.letter
    if letter is None:
        say(wrapped(f"{_described(entry)}: dropped. It was:"))
        say(json.dumps(redacted(entry.event).to_wire(), ensure_ascii=False) if entry.event else entry.key)
        return
    say(wrapped(f"{_described(entry)}: dropped. It is dead letter {letter.id} now. To undo it:"))
    say_steps([f"choreo dead-letters replay {letter.id}"])


def _described(entry: Entry) -> str:
    where = "" if entry.handler == DELAYED else f" of {entry.handler}"
    kind = "delayed event" if entry.kind == "delayed" else str(entry.kind)
    about = f" for {entry.subject}" if entry.subject else ""
    return one_line(f"The {kind}{where}{about} (due {entry.due:%m-%d %H:%M:%S} UTC, {entry.id})")


def _listed(entry: Entry) -> str:
    when = "leaving" if entry.is_leaving else "now" if entry.is_due else shown_moment(entry.due, "%m-%d %H:%M:%S")
    name = "delayed events" if entry.handler == DELAYED else one_line(entry.handler)
    first = _ENTRY.format(when, entry.kind, entry.id, folded(name, _START))
    return f"{first}\n{' ' * _SUBJECT}{folded(_about(entry), _SUBJECT)}"


def _about(entry: Entry) -> str:
    attempt = f"attempt {entry.attempt}" if entry.attempt else ""
    what = ", ".join(filter(None, (entry.type, attempt)))
    words = "  ".join(filter(None, (one_line(entry.subject), what))) or one_line(entry.key)
    return f"{words}: {one_line(entry.error)}" if entry.error else words


def _more(names: Sequence[str], subject: str, limit: int, place: str) -> str:
    about = ["--subject", subject] if subject else []
    most = [] if limit == LIMIT else ["--limit", str(limit)]
    return shlex.join(["choreo", "schedule", "list", *names, *about, *most, "--after", place])


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
