"""`choreo map`: shows which events there are, who announces them, and who hears them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from choreo.cli import completion
from choreo.cli.app import nobody, say, speaking, tell
from choreo.cli.where import services
from choreo.errors import ChoreoError, StoreError
from choreo.printing import one_line
from choreo.service import Service

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from choreo.observe.map import Announcer, Hearer, Map, MappedEvent, MappedService

#: The most columns for the type of an event that is not broken, and the fewest for the hearers beside full names.
LONGEST_TYPE, HEARERS = 36, 18
#: The most names in a note that nobody need act on.
MOST_NAMED = 6
#: The marks of a hearer.
_MARKS = {"join": "+", "unless": "-", "effect": "<"}


@click.command("map")
@click.argument("names", nargs=-1, metavar="[SERVICE|HANDLER|TYPE]...", shell_complete=completion.services_and_handlers)
@click.option(
    "--package",
    metavar="NAME",
    shell_complete=completion.packages,
    help="Read the code of this package, and ask no broker.",
)
@click.option(
    "--code",
    "targets",
    metavar="APP",
    multiple=True,
    shell_complete=services,
    help="Read the code of this service, named as for `celery -A`, and ask no broker.",
)
@click.option("--reads", metavar="FIELD", help="Show who reads this field of an event.")
@click.option("--unread", is_flag=True, help="Show the fields of events that no handler uses.")
@click.option("--mermaid", is_flag=True, help="Print a flowchart for Markdown.")
@click.option("--dot", is_flag=True, help="Print a digraph for Graphviz.")
@click.option("--svg", is_flag=True, help="Print a picture. It needs Graphviz.")
@click.option("--json", is_flag=True, help="Print one JSON object.")
@speaking
def map_(
    app: Service,
    names: tuple[str, ...],
    package: str | None,
    targets: tuple[str, ...],
    reads: str | None,
    unread: bool,
    **forms: bool,
) -> None:
    """
    Show who announces and who hears each event.

    Without --package and --code it shows what the services have told the store, also those that are stopped. If no
    broker is set, it reads the code of the only package in this directory.

    \b
    choreo map                           all events
    choreo map payment order.placed      what concerns these
    choreo map --package shop --svg > shop.svg
    choreo map --unread                  fields that could be left out
    """
    form = _form(forms, "--reads" if reads is not None else "--unread" if unread else "")
    shown = _chosen(_drawn(app, package, targets), names)
    if reads is not None:
        _print_readers(shown, reads, as_json=form == "json")
    elif unread:
        _print_unread(shown, as_json=form == "json")
    elif form is not None:
        say(_FORMS[form](shown))
    else:
        _print(shown, names)


def _form(forms: Mapping[str, bool], lists: str) -> str | None:
    """
    The form that the options ask for; None for people. Raises `UsageError` if they contradict each other.

    ``lists`` is the option that asks for a list; "" for the map.
    """
    asked = [name for name, is_asked in forms.items() if is_asked]
    if len(asked) > 1:
        raise click.UsageError(f"{' and '.join(f'--{name}' for name in asked)} exclude each other. Choose one.")
    if lists and asked not in ([], ["json"]):
        raise click.UsageError(f"{lists} prints a list, or JSON with --json. Leave out --{asked[0]}.")
    return asked[0] if asked else None


def _drawn(app: Service, package: str | None, targets: tuple[str, ...]) -> Map:
    """The map from code if the options say so or no broker is set; else from the store."""
    from choreo.local.blueprint import blueprint
    from choreo.local.discovery import DiscoveryError, only_package

    try:
        if targets or package:
            return blueprint(package, targets)
        if not app.conf.broker_write_url and not app.conf.get("choreo_store_url"):
            return blueprint(only_package(Path.cwd()))
    except DiscoveryError as error:
        raise click.UsageError(str(error)) from error
    try:
        shown = app.observe.map()
    except StoreError:
        tell("The map can also be read from the code: `choreo map --package NAME`.")
        raise
    if not shown.services:
        tell(
            f"{nobody(app)} To read the code instead: `choreo map --package NAME`.",
        )
    return shown


def _chosen(shown: Map, names: tuple[str, ...]) -> Map:
    known = shown.names
    for name in names:
        if name not in known:
            guess = get_close_matches(name, sorted(known), n=1)
            hint = f"Did you mean {guess[0]}?" if guess else "`choreo map` shows all."
            if not guess and Path(*name.split("."), "__init__.py").is_file():
                hint = f"For the code of a package: `choreo map --package {name}`."
            raise click.ClickException(f"No service, handler or event {name!r} is on the map. {hint}")
    return shown.about(*names)


def _json(shown: Map) -> str:
    return json.dumps(shown.to_dict())


def _mermaid(shown: Map) -> str:
    from choreo.observe.picture import Picture

    return Picture(shown).mermaid()


def _dot(shown: Map) -> str:
    from choreo.observe.picture import Picture

    return Picture(shown).dot()


def _svg(shown: Map) -> str:
    from choreo.observe.graphviz import svg
    from choreo.observe.picture import Picture

    try:
        return svg(Picture(shown))
    except ChoreoError as error:
        raise click.ClickException(str(error)) from error


_FORMS: dict[str, Callable[[Map], str]] = {"json": _json, "mermaid": _mermaid, "dot": _dot, "svg": _svg}


# -- for people ------------------------------------------------------------------------------------------------------


def _print(shown: Map, names: tuple[str, ...]) -> None:
    from choreo.cli.tables import facts, screen, show, table, text

    console = screen()
    asleep = list(_asleep_services(shown))
    if asleep:
        show(console, facts(asleep), "")
    widths, full = _widths(shown, console.width, names)
    rows = table("EVENT", "ANNOUNCED BY", "HEARD BY", widths=widths, gap=_gap(names))
    for event in shown.events:
        rows.add_row(text(event.type), _announced_by(event, full=full), _heard_by(event, names))
    if shown.events:
        show(console, rows, *_legend(shown))
    elif names:
        tell(f"{', '.join(names)}: no event is announced or heard.")
    for event in shown.events:
        if event.type in names:
            _print_hearers(console, event)
    notes = list(_notes(shown))
    if notes:
        show(console, "", facts(notes))


def _gap(chosen: tuple[str, ...]) -> int:
    """The space between two columns. Full names need more of the width."""
    return 1 if chosen else 2


def _widths(shown: Map, width: int, chosen: tuple[str, ...]) -> tuple[list[int], bool]:
    """The columns of the three parts, and True if there is room for the full names of those who announce."""
    types = min(max((len(one_line(event.type)) for event in shown.events), default=5), LONGEST_TYPE)
    announcers = [one_line(one.name) for event in shown.events for one in event.announced_by]
    guesses = [f"{event.similar}?" for event in shown.events if not event.announced_by]
    names = max(map(len, [*announcers, *guesses]), default=0)
    hearers = [len(_named(hearer, chosen)) + 2 for event in shown.events for hearer in event.by_name] if chosen else []
    left = width - types - 2 * _gap(chosen)
    full = left - names >= max(HEARERS, *hearers, 0)
    middle = max(names, len("ANNOUNCED BY")) if full else left * 2 // 5
    return [types, middle, left - middle], full


def _announced_by(event: MappedEvent, *, full: bool) -> Text:
    """Those who announce it: handlers, or their services if there is no room for their names."""
    from choreo.cli.tables import listed, text

    if not event.announced_by:
        nobody = [text(("nobody known", "yellow"))]
        return listed(nobody + [text(f"{event.similar}?")] * bool(event.similar and event.by_name), "\n")
    names = dict.fromkeys(_announcer(announcer, full=full) for announcer in event.announced_by)
    # "driver, driver (timeout)" says no more than "driver" where only services are shown.
    names = {name: None for name in names if full or " (" not in name or name.partition(" ")[0] not in names}
    return listed(map(text, names), "\n" if full else ", ")


def _announcer(announcer: Announcer, *, full: bool) -> str:
    how = {"on_timeout": " (timeout)", "dead_letter": " (dead letter)", "seen": " (seen)"}.get(announcer.how, "")
    return f"{announcer.name if full else announcer.service}{how}"


def _heard_by(event: MappedEvent, names: tuple[str, ...]) -> Text:
    """The hearers by their services; those of ``names`` by their full names; wildcards as one star."""
    from choreo.cli.tables import listed, text

    hint = f"  {event.similar}?" if event.similar and not event.by_name else ""
    if event.is_unheard:
        lost = f" ({event.lost}x, last {_moment(event.lost_at)})" if event.lost else ""
        return text(("NOBODY", "bold red"), lost, hint)
    if not event.by_name:
        return text((f"ONLY {' '.join(_watchers(event))}", "yellow"), hint)
    named = [f"{_named(hearer, names)}{_MARKS.get(hearer.how, '')}" for hearer in event.by_name]
    return listed(map(text, dict.fromkeys([*sorted(named), *_watchers(event)])))


def _watchers(event: MappedEvent) -> list[str]:
    """The signs of those who do not hear the event by its type, or only follow it."""
    signs = {"*": any(hearer.is_wildcard for hearer in event.heard_by), "~": bool(event.in_stories)}
    return [sign for sign, is_there in signs.items() if is_there]


def _named(hearer: Hearer, names: tuple[str, ...]) -> str:
    return hearer.name if {hearer.name, hearer.service} & set(names) else hearer.service


def _legend(shown: Map) -> list[Text]:
    """What the signs mean, in a few lines."""
    from choreo.cli.tables import text

    hearers = {hearer.how for event in shown.events for hearer in event.by_name}
    heard = [hearer for event in shown.events for hearer in event.heard_by]
    wild = sorted({f"{hearer.name} hears {hearer.pattern}" for hearer in heard if hearer.is_wildcard})
    stories = sorted({hearer.name for hearer in heard if hearer.how == "story"})
    signs = [("join", "+ part of a join"), ("unless", "- cancels a join"), ("effect", "< undoes its effect")]
    lines = ["   ".join(sign for how, sign in signs if how in hearers)]
    lines += [f"* {', '.join(wild)}"] * bool(wild) + [f"~ followed by the story {', '.join(stories)}"] * bool(stories)
    return [text((line, "dim")) for line in lines if line]


def _print_hearers(console: Console, event: MappedEvent) -> None:
    from choreo.cli.tables import show, table, text

    heading = f"{event.type} is heard by"
    # Most events have one version for ever.
    versioned = any(version > 1 for hearer in event.heard_by for version in hearer.versions)
    rows = table(heading, "LISTENS", *(["VERSIONS"] if versioned else []), "READS", kept=[heading])
    for hearer in event.heard_by:
        versions = [text(_versions(hearer))] if versioned else []
        rows.add_row(text(hearer.name), text(_listens(hearer)), *versions, text(_reads(hearer)))
    show(console, "", rows)


#: `Hearer.how` → the same for people.
_LISTENS = {
    "join": "in a join",
    "unless": "cancels",
    "story": "in a story",
    "effect": "undoes it",
    "undo": "to undo",
}


def _listens(hearer: Hearer) -> str:
    how = f"to {hearer.pattern}" if hearer.is_wildcard else _LISTENS.get(hearer.how, "by name")
    return ", ".join([how, *hearer.pace])


def _versions(hearer: Hearer) -> str:
    return ", ".join(map(str, hearer.versions)) or "any"


def _reads(hearer: Hearer) -> str:
    if hearer.how == "unless":
        return ""
    return "the whole event" if hearer.reads is None else ", ".join(hearer.reads) or "nothing"


def _asleep_services(shown: Map) -> Iterator[tuple[str, Text]]:
    """The services of which no worker lives: said first, since what follows is then of the past."""
    from choreo.cli.tables import listed, text

    asleep = [service for service in shown.services if service.workers == 0 and service.has_handlers]
    if asleep:
        yield "NO WORKER LIVES", listed(text(_asleep(service)) for service in asleep)


def _notes(shown: Map) -> Iterator[tuple[str, Text]]:
    from choreo.cli.tables import listed, text

    for pause in shown.paused:
        yield "PAUSED" if pause.is_stop else "SLOWED", text(str(pause))
    if shown.idle:
        queues = [text(idle.queue, f" ({_counted(idle.waiting)})") for idle in shown.idle]
        yield "QUEUES NOBODY CONSUMES", listed(queues)
    divided = [service for service in shown.services if service.is_divided]
    if divided:
        yield "TWO DECLARATIONS", listed(text(_divided(service)) for service in divided)
    if shown.unsaid:
        more = f" and {len(shown.unsaid) - MOST_NAMED} more" if len(shown.unsaid) > MOST_NAMED else ""
        names = ", ".join(shown.unsaid[:MOST_NAMED])
        told = f"{names}{more}: without a return annotation, so they may announce any event"
        yield "NOT SAID", text(told)
    for fault in shown.faults:
        yield "NOT READ", text(fault)


def _counted(number: int | None) -> str:
    return "?" if number is None else str(number)


def _asleep(service: MappedService) -> str:
    seen = f"last seen {_moment(service.seen)}" if service.seen else "never seen"
    waiting = f", {service.waiting} wait" if service.waiting else ""
    return f"{service.name} ({seen}{waiting})"


def _divided(service: MappedService) -> str:
    if service.division:
        return service.division
    versions = ", ".join(service.versions) or "of unknown versions"
    return f"{service.name} ({versions}; {service.workers} workers)"


def _moment(seconds: float) -> str:
    moment, now = datetime.fromtimestamp(seconds).astimezone(), datetime.now().astimezone()
    return f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M}"


def _print_readers(shown: Map, field: str, *, as_json: bool) -> None:
    readings = shown.readers(field)
    if as_json:
        for reading in readings:
            say(json.dumps({"handler": reading.name, "event": reading.event, "is_certain": reading.is_certain}))
        return
    if not any(reading.is_certain for reading in readings):
        tell(f"No handler says that it reads {field!r}.")
    if not readings:
        return
    from choreo.cli.tables import listed, screen, show, table, text

    rows = table("HANDLER", "READS", "OF", kept=["HANDLER"])
    found: dict[tuple[bool, str], list[str]] = {}
    for reading in readings:
        found.setdefault((not reading.is_certain, reading.name), []).append(reading.event)
    for (is_whole, name), events in sorted(found.items()):
        rows.add_row(text(name), text("the whole event" if is_whole else field), listed(map(text, events)))
    show(screen(), rows)


def _print_unread(shown: Map, *, as_json: bool) -> None:
    unread = shown.unread()
    if as_json:
        for one in unread:
            say(json.dumps({"event": one.event, "field": one.field, "perhaps": list(one.perhaps)}))
        return
    if not unread:
        tell("Each field of each event that is heard is used by a handler.")
        return
    from choreo.cli.tables import listed, screen, show, table, text

    rows = table("EVENT", "FIELD", "USED BY", kept=["EVENT", "FIELD"])
    for one in unread:
        rows.add_row(
            text(one.event),
            text(one.field),
            listed(text(name, "?") for name in one.perhaps) if one.perhaps else text("nobody"),
        )
    show(screen(), rows)
    if any(one.perhaps for one in unread):
        tell("?: it takes the whole event, and its source does not tell which fields it uses.")
