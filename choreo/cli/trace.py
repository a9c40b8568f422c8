"""`choreo trace`: the story of one order, as a tree."""

import json
import textwrap
from collections.abc import Iterator, Sequence

import click

from choreo.cli import completion
from choreo.cli.app import check_named, place_of, say, speaking
from choreo.cli.verdict import WIDTH, say_steps, say_verdict, width, wrapped
from choreo.observe.evidence import KnownEvent
from choreo.observe.open_end import OpenEnd
from choreo.observe.trace import Line, Trace
from choreo.observe.words import clock, counted, span
from choreo.printing import one_line
from choreo.service import Service
from choreo.store.runs import Run

_ROW = "{:<9} {:>7}  {:<{what}} {:>8} {:>7}"
#: The columns of a row beside the one that names events and handlers, and the empty one at the end.
_BESIDE = 37
#: The deepest indentation, in levels of two columns; and in a terminal that is narrower than 80 columns.
_DEEPEST, _SHALLOW = 8, 4
#: How many lines of a tree, and how many joins that wait, are printed without --all.
_LINES, _OPEN = 60, 10


@click.command()
@click.argument("what", metavar="SUBJECT|ID", shell_complete=completion.subjects)
@click.option("--all", "everything", is_flag=True, help="Every story of the subject, and every line of each.")
@click.option("--data", is_flag=True, help="The fields of the events, where they are still known.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per story.")
@speaking
def trace(app: Service, what: str, everything: bool, data: bool, as_json: bool) -> None:
    """
    Show what became of an order, event by event.

    That is what has happened, what is still to happen, and why it does not go on. Given is the subject of its events,
    such as ORD-1, or the id of an event, of a dead letter or of a story.
    """
    check_named(what)
    traces = app.observe.trace(what, everything=everything)
    if not traces:
        raise click.ClickException(_nothing(app, what))
    for number, found in enumerate(traces):
        if as_json:
            say(found.to_json(data=data))
            continue
        if number:
            say("")
        show(found, None if everything else _LINES, data=data)
        if found.others and not everything:
            older = "1 older story" if len(found.others) == 1 else f"{len(found.others)} older stories"
            say(f"ALSO  {older} of this subject: --all")


def _nothing(app: Service, what: str) -> str:
    elsewhere = app.observe.elsewhere("", what)
    if elsewhere is not None:
        steps = "\n".join(f"      {step}" for step in elsewhere.do)
        return f"Nothing is known of {what!r} here. {elsewhere.text}.\n{steps}"
    recording, look = app.runtime.store.recording, app.runtime.look_at_broker([], [what])
    closed = "" if look.is_open else ", as far as its queues can be looked into"
    kept = f"the record keeps runs for {recording.lifetime.days} days" if recording else "no runs are recorded"
    return (
        f"Nothing is known of {what!r}: no event of it waits{closed}, and {kept}. Is it the subject of its events, "
        f"or the id of an event, a dead letter or a story? The store is {place_of(app)}."
    )


def show(found: Trace, most: int | None = _LINES, *, data: bool = False) -> None:
    """Print a trace. ``most``: so many lines of its tree, without those that only listened; None: all of it."""
    say_verdict(found.headline(), found.cause.weight)
    if found.read_as != "subject":
        say(f"read as the id of a{'n' * (found.read_as == 'event')} {found.read_as}")
    _print_tree(found, most, data=data)
    for end in found.waiting if most is None else found.waiting[:_OPEN]:
        say(_open(end, found.now))
    if most is not None and len(found.waiting) > _OPEN:
        say(f"... {len(found.waiting) - _OPEN} joins more: --all")
    say_steps(found.cause.do)
    for note in found.notes:
        say(wrapped(f"NOTE  {note}", "      "))


def _print_tree(found: Trace, most: int | None, *, data: bool) -> None:
    say(_ROW.format("TIME", "AFTER", "WHAT", "WAITED", "TOOK", what=_what()).rstrip())
    before = ""
    shown = [line for line in found.lines if most is None or not line.is_noise]
    for line in shown[:most]:
        for text, time in _rows(line, found):
            say(text.replace(time, " " * len(time), 1) if time and time == before else text)
            before = time or before
        if data and line.step is None and line.event.data is not None:
            say(textwrap.indent(json.dumps(line.event.data, indent=2, ensure_ascii=False), " " * (_left(line) + 2)))
    _print_rest(found, shown, most, data=data)


def _print_rest(found: Trace, shown: Sequence[Line], most: int | None, *, data: bool) -> None:
    """Say what the tree does not show."""
    if most is not None and len(shown) > most:
        say(f"... {len(shown) - most} lines more: --all")
    hidden = {line.step.handler for line in found.lines if line.step and line.is_noise}
    if hidden and most is not None:
        say(wrapped(f"ALSO  {', '.join(sorted(hidden))} listened, and announced nothing: --all", "      "))
    unknown = sum(line.step is None and line.event.data is None for line in found.lines)
    if data and unknown:
        lost = f"the fields of {counted(unknown, 'event')} are not known any more"
        say(wrapped(f"ALSO  {lost}: choreo_record_events = True keeps those of new events", "      "))


def _rows(line: Line, found: Trace) -> Iterator[tuple[str, str]]:
    """The printed lines of one line of the tree, each with the time that it begins with."""
    if line.step is None:
        source = f"  from {line.event.source}" if line.event.source and not line.depth else ""
        nobody = "  nobody hears it" if line.is_unheard else ""
        due = f"  {line.to_announce.due_words(found.now)}" if line.to_announce else ""
        at = None if line.to_announce else line.event.at
        yield from _row(line, found, at, f"{_named(line.event, found)}{due}{source}{nobody}")
        return
    step = line.step
    for run in step.runs:
        label = "  ".join(filter(None, [step.handler, step.words_of(run)]))
        yield from _row(line, found, run.at - run.took, label, run)
    if step.joined is not None or step.is_open:
        at = None if step.joined is None else line.event.at
        yield from _row(line, found, at, f"{step.handler}  {step.words(found.now)}")


def _named(event: KnownEvent, found: Trace) -> str:
    about = f" {event.subject}" if event.subject and event.subject != found.what else ""
    return f"{event.type}{about}"


def _row(line: Line, found: Trace, at: float | None, label: str, run: Run | None = None) -> Iterator[tuple[str, str]]:
    time = "" if at is None else clock(at, found.now)[-8:]
    after = "" if at is None or found.began is None or at <= found.began else span(at - found.began)
    if at is None:
        after = "->"
    indent = " " * _indent(line)
    whole = width() - _left(line)
    room = whole if run is None else _what() - len(indent)
    label = one_line(label)
    # What is said of a handler stays together.
    name, _, rest = (label, "", "") if len(label) <= room else label.partition("  ")
    first, *more = _wrap(name, whole)
    said = " ".join(filter(None, [*more, rest]))
    numbers = ("", "") if run is None else (span(run.waited), span(run.took))
    if len(first) > room:
        # A name is not broken: one copies it.
        yield _ROW.format(time, after, f"{indent}{first}", "", "", what=_what()).rstrip(), time
        yield _ROW.format("", "", "", *numbers, what=_what()), ""
    else:
        yield _ROW.format(time, after, f"{indent}{first}", *numbers, what=_what()).rstrip(), time
    for text in _wrap(said, whole - 2) if said else ():
        yield f"{' ' * (_left(line) + 2)}{text}", ""


def _wrap(text: str, columns: int) -> list[str]:
    return textwrap.wrap(text, columns, break_on_hyphens=False) or [""]


def _what() -> int:
    """The width of the column that names events and handlers."""
    return width() - _BESIDE


def _indent(line: Line) -> int:
    return 2 * min(line.depth, _DEEPEST if width() >= WIDTH else _SHALLOW)


def _left(line: Line) -> int:
    return 19 + _indent(line)


def _open(end: OpenEnd, now: float) -> str:
    join = end.join
    assert join is not None
    missing: Sequence[str] = [str(part) for part in join.missing] or ["its next attempt"]
    until = f" until {clock(end.due or now, now)}" if not join.complete else ""
    text = f"OPEN  {end.handler} waits for {' or '.join(missing) if join.needed < len(missing) else ', '.join(missing)}"
    return wrapped(one_line(f"{text}{until}{' (overdue)' * join.overdue}"), "      ")
