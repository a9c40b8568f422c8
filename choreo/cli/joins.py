"""`choreo joins`: lists, shows, cancels and fires pending joins."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import click

from choreo.cli import completion
from choreo.cli.app import check_names, say, shown_moment, speaking, tell, tell_asleep, tell_undeclared
from choreo.cli.folding import folded, keyed
from choreo.cli.group import Group
from choreo.cli.paging import rows
from choreo.cli.quiet import unlogged
from choreo.cli.verdict import wrapped
from choreo.cli.where import connecting
from choreo.observe.words import span
from choreo.operate.joins import Joins, PendingJoin
from choreo.printing import one_line
from choreo.service import Service

_ROW = "{:<20}  {:<11}  {:<11}  {}"
#: The column in which the last field begins.
_START = 48
_WHEN_COMPLETE = ". It runs at its deadline at the latest"
_of_handler = click.option(
    "--handler",
    metavar="NAME",
    help="The handler, if several wait for KEY.",
    shell_complete=completion.services_and_handlers,
)


@click.group("joins", cls=Group)
@connecting
def joins() -> None:
    """List pending joins and the events that they wait for. Cancel or fire one."""


@joins.command("list")
@click.argument("names", nargs=-1, metavar="[SERVICE|HANDLER]...", shell_complete=completion.services_and_handlers)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="The most joins to list for each handler. 0: no limit.",
)
@click.option("--after", metavar="PLACE", help="Continue an earlier list of one HANDLER.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def list_(app: Service, names: tuple[str, ...], limit: int, after: str | None, as_json: bool) -> None:
    """
    List pending joins, soonest deadline first.

    Of all handlers, or of the given services or handlers.
    """
    handlers = _chosen(app, names)
    if after and len(handlers) != 1:
        raise click.UsageError("--after continues the list of one HANDLER. Name it.")
    pending: list[str] = []
    for number, handler in enumerate(handlers):
        if not as_json:
            say(("\n" if number else "") + _headline(app.joins, handler))
        count = 0
        for count, (join, place) in enumerate(_rows(app.joins, handler, limit, after or ""), start=1):
            if not as_json and count == 1:
                say(_ROW.format("KEY", "SINCE (UTC)", "UNTIL (UTC)", "WAITS FOR"))
            say(join.to_json() if as_json else _row(join))
            if place:
                more = f"choreo joins list {handler} --limit {limit} --after {shlex.quote(place)}"
                say(f"More: {more}", err=as_json)
        if not count and not as_json:
            say("  nothing pending" if not after else "  nothing more")
        pending += [handler] * bool(count)
    tell_undeclared(app, pending)


@joins.command()
@click.argument("key", metavar="KEY")
@_of_handler
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--reveal", is_flag=True, help="With the values of redacted fields.")
@speaking
def show(app: Service, key: str, handler: str | None, as_json: bool, reveal: bool) -> None:
    """
    Show the joins that wait for KEY.

    With their parts, their missing events and their deadline.
    """
    _check_handler(app, handler)
    found = app.joins.find(key, handler)
    if not found:
        app.joins.get(key, handler)
    for number, join in enumerate(found):
        say(join.to_json(reveal=reveal) if as_json else ("\n" if number else "") + _explained(join))
    tell_undeclared(app, [join.handler for join in found])


@joins.command()
@click.argument("key", metavar="KEY")
@_of_handler
@click.option("--reason", help="The reason, for `choreo repairs`. It is asked for if it is left out.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@speaking
def cancel(app: Service, key: str, handler: str | None, reason: str | None, yes: bool) -> None:
    """Settle the join of KEY without running its handler. To keep a copy of its parts, run `show --json` first."""
    _check_handler(app, handler)
    join = app.joins.get(key, handler)
    if not yes:
        say(wrapped(f"{join.handler} {one_line(key)} has {_arrived(join)}.", "  "))
    # Not by click: it would ask before it has looked at the rest of the command line.
    reason = click.prompt("Why") if reason is None else reason
    if yes or click.confirm("Forget the join for good?"):
        with unlogged("choreo.operate.joins"):
            app.joins.cancel(key, reason, join.handler)
        later = "Parts that come later are ignored; with rounds=True they begin a new round."
        say(wrapped(f"{join.handler} {one_line(key)}: cancelled. {later}", "  "))


@joins.command()
@click.argument("key", metavar="KEY")
@_of_handler
@click.option("--as-timeout", is_flag=True, help="Run on_timeout, as at the deadline.")
@speaking
def fire(app: Service, key: str, handler: str | None, as_timeout: bool) -> None:
    """
    Run the handler that waits for KEY.

    It gets the parts that have arrived. A missing part is None.
    """
    _check_handler(app, handler)
    join = app.joins.fire(key, handler, as_timeout=as_timeout)
    what = "on_timeout runs" if as_timeout else "runs"
    say(wrapped(f"{join.handler} {one_line(key)}: {what} with {_arrived(join)}.", "  "))
    tell_asleep(app, join.handler)


def _check_handler(app: Service, handler: str | None) -> None:
    if handler is not None:
        check_names(app, [handler], [*app.joins.handlers, *app.joins.undos], "join")


def _chosen(app: Service, names: tuple[str, ...]) -> list[str]:
    known = app.joins.handlers
    services = {name.partition(".")[0] for name in app.runtime.store.handlers()}
    check_names(app, names, [*known, *services])
    for given in names:
        if not any(given in (name, name.partition(".")[0]) for name in known):
            tell(f"{given} has no joins.")
    if not known and not names:
        tell("No joins are known. A service makes its joins known when its worker starts.")
    return [name for name in known if not names or name in names or name.partition(".")[0] in names]


def _rows(joins: Joins, handler: str, limit: int, after: str) -> Iterator[tuple[PendingJoin, str]]:
    """Iterate over pending joins with a cursor: see `rows`."""

    def page(most: int, place: str) -> tuple[list[PendingJoin], str]:
        found = joins.page(handler, most, place)
        return found.joins, found.after

    return rows(page, limit, after)


def _headline(joins: Joins, handler: str) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in joins.tally(handler).items() if count)
    return handler + (f"\n  events that did not count: {counts}" if counts else "")


def _row(join: PendingJoin) -> str:
    since = join.since.strftime("%m-%d %H:%M") if join.since else ""
    until = "overdue" if join.overdue else shown_moment(join.until, "%m-%d %H:%M")
    return keyed(_ROW, one_line(join.key), 20, since, until, folded(_waits_for(join), _START))


def _explained(join: PendingJoin) -> str:
    lines = [f"{join.handler} {one_line(join.key)}"]
    facts = [("waits for", _waits_for(join) + (_WHEN_COMPLETE if _is_idle(join) else ""))]
    if join.since:
        facts.append(("since", _when(join.since)))
    facts.append(("until", _when(join.until) + (", and its handler was notified" if join.overdue else "")))
    if join.attempts:
        facts.append(("attempts", f"{join.attempts} failed"))
    if join.lease:
        facts.append(("worker", f"one holds the lease, for another {join.lease:.0f} s at least"))
    lines += [wrapped(f"  {name + ':':<11}{fact}", " " * 13) for name, fact in facts]
    lines.append("  has:" if join.arrived else "  has nothing yet")
    for part in join.arrived:
        event = part.envelope
        lines.append(f"    {part.at:%m-%d %H:%M:%S}  {event}{'' if part.counts else '  (it does not count any more)'}")
        lines.append(f"                    id {one_line(event.id)}, from {one_line(event.source)}")
    return "\n".join(lines)


def _waits_for(join: PendingJoin) -> str:
    if join.complete:
        return "nothing: it is complete" if not join.attempts else "its next attempt"
    if join.is_effect:
        return f"{' or '.join(map(str, join.missing))}, which may never come"
    missing = ", ".join(map(str, join.missing)) or "unknown: no worker has started"
    return f"{join.needed} of: {missing}" if join.needed < len(join.missing) else missing


def _is_idle(join: PendingJoin) -> bool:
    """True if the join is complete, and no worker runs it or has tried to: its declaration was changed, or one died."""
    return join.complete and not join.attempts and not join.lease


def _arrived(join: PendingJoin) -> str:
    return ", ".join(one_line(part.envelope.type) for part in join.arrived) or "nothing"


def _when(moment: datetime) -> str:
    away = moment - datetime.now(UTC)
    spoken = f"{span(-away.total_seconds())} ago" if away < timedelta(0) else f"in {span(away.total_seconds())}"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({spoken})"
