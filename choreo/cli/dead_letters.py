"""`choreo dead-letters`: groups, lists, shows and exports dead letters; see `letter_repairs` for what changes them."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import click

from choreo.cli.app import say, speaking, tell, tell_undeclared
from choreo.cli.choosing import Choice, choosing
from choreo.cli.folding import cut, folded
from choreo.cli.group import Group
from choreo.cli.letter_edit import edit
from choreo.cli.letter_groups import blanks, json_of, rows, told
from choreo.cli.letter_repairs import discard, replay
from choreo.cli.verdict import WIDTH, wrapped
from choreo.cli.where import connecting
from choreo.delivery.dead_letter import UNSAID, DeadLetter, Reason
from choreo.events.envelope import Envelope
from choreo.observe.words import counted
from choreo.printing import one_line
from choreo.service import Service
from choreo.store.parts import is_demanded, read_demand

_ROW = "{:<10}  {:<11}  {:<10}  {}"
#: The column in which the last field begins, and the one in which the error does, on a line of its own.
_START, _ERROR = 37, 12
#: The most dead letters that are listed, unless --limit says otherwise.
LIMIT = 50


@click.group("dead-letters", cls=Group, invoke_without_command=True)
@connecting
@click.pass_context
def dead_letters(context: click.Context) -> None:
    """
    List, replay or discard events that failed for good.

    Without a command: the groups of dead letters that have one cause.
    """
    if context.invoked_subcommand is None:
        context.invoke(groups, names=(), cause="", since="", subject="", limit=LIMIT, as_json=False)


_limit = click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=LIMIT,
    show_default=True,
    help="The most dead letters to list. 0: no limit.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
_revealing = click.option("--reveal", is_flag=True, help="With the values of redacted fields.")


@dead_letters.command()
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=LIMIT,
    show_default=True,
    help="The most groups to list. 0: no limit.",
)
@_as_json
@speaking
@choosing("arguments")
def groups(app: Service, choice: Choice, limit: int, as_json: bool) -> None:
    """
    List groups of dead letters with one cause, the largest first.

    The letters of a group have the same handler, reason, type of error and place in the code, and messages that differ
    in ids and numbers only. FIRST and LAST are times in UTC. Of all handlers, or of the given services or handlers.
    """
    found = app.dead_letters.groups(*choice.names, **choice.given)
    shown = found[: limit or None]
    for line in map(json_of, shown) if as_json else rows(shown) if shown else ():
        say(line)
    if as_json:
        return
    if not found:
        _tell_nothing(app, choice)
        return
    how_many = told(found) if len(shown) == len(found) else f"{len(shown)} of {told(found)} (--limit)"
    say(
        f"\n{how_many}.{blanks(shown)}\n`choreo dead-letters list --cause GROUP` lists the letters of one;\n"
        f"`choreo dead-letters replay GROUP --canary` sends them once more, one first."
    )
    tell_undeclared(app, [group.handler for group in shown])


@dead_letters.command("list")
@_limit
@click.option("--after", metavar="PLACE", default="", help="Continue an earlier list.")
@_as_json
@speaking
@choosing("arguments")
def list_(app: Service, choice: Choice, limit: int, after: str, as_json: bool) -> None:
    """
    List dead letters with their errors, oldest first.

    Of all handlers, or of the given services or handlers.
    """
    if not limit:
        shown, following = app.dead_letters.find(*choice.names, **choice.given), ""
    else:
        shown, following = app.dead_letters.page(*choice.names, **choice.given, limit=limit, after=after)
    for line in (letter.redacted.to_json() for letter in shown) if as_json else _rows(shown):
        say(line)
    if following:
        most = [] if limit == LIMIT else ["--limit", str(limit)]
        words = ["choreo dead-letters list", *choice.names, *choice.options(), *most, "--after", following]
        say(f"More: {' '.join(words)}", err=as_json)
    if as_json:
        return
    if not shown:
        _tell_nothing(app, choice, "more " if after else "")
        return
    is_all = not following and not after
    how_many = len(shown) if is_all else app.dead_letters.count(*choice.names, **choice.given)
    told_count = f"{how_many} in all" if is_all else f"{len(shown)} of {how_many}"
    say(f"\n{told_count}. `choreo dead-letters show ID` tells more.")
    tell_undeclared(app, [letter.handler for letter in shown])


def _tell_nothing(app: Service, choice: Choice, more: str = "") -> None:
    """Say that there are no such letters, and what causes there are if another one was asked for."""
    of = f" of {', '.join(choice.names)}" if choice.names else ""
    which = " ".join(choice.options())
    say(f"No {more}dead letters{of}{' with ' * bool(which)}{which}.")
    if choice.cause:
        known = app.dead_letters.groups(*choice.names)
        types = sorted({group.error for group in known if group.error})
        if known:
            tell(
                f"Types of errors: {', '.join(types) or 'none'}. Groups: {', '.join(group.id for group in known[:20])}."
            )


@dead_letters.command()
@click.option("--output", type=click.Path(dir_okay=False), metavar="FILE", help="A new file. Without it: the output.")
@_revealing
@speaking
@choosing("arguments")
def export(app: Service, choice: Choice, output: str | None, reveal: bool) -> None:
    """
    Write whole dead letters, one JSON object per line, oldest first.

    Of all handlers, or of the given services or handlers. They stay where they are.
    """
    letters = app.dead_letters.each(*choice.names, **choice.given)
    if output is None:
        for letter in letters:
            click.echo(_seen(letter, reveal=reveal).to_json())
        return
    try:
        with Path(output).open("x", encoding="utf-8") as file:
            count = sum(1 for letter in letters if file.write(f"{_seen(letter, reveal=reveal).to_json()}\n"))
    except FileExistsError:
        raise click.ClickException(
            f"{output} exists. Name a new file: an earlier export may be all that is left."
        ) from None
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror or error}.") from error
    say(f"{counted(count, 'dead letter')} in {output}.")


@dead_letters.command()
@click.argument("letter_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="The letter as one JSON object.")
@_revealing
@speaking
def show(app: Service, letter_id: str, as_json: bool, reveal: bool) -> None:
    """Show one dead letter: its event, error, attempts and traceback."""
    letter = _seen(app.dead_letters.get(letter_id), reveal=reveal)
    say(letter.to_json() if as_json else "\n".join([*headlines(letter), *_contents(letter)]))


dead_letters.add_command(replay)
dead_letters.add_command(discard)
dead_letters.add_command(edit)


def _seen(letter: DeadLetter, *, reveal: bool) -> DeadLetter:
    return letter if reveal else letter.redacted


def headlines(letter: DeadLetter) -> list[str]:
    """Return the first lines of `choreo dead-letters show`: the id, handler, reason, error and time."""
    facts = {
        "dead letter": letter.id,
        "handler": one_line(letter.handler),
        "group": letter.group,
        "reason": f"{letter.reason}, {_attempts(letter.attempts)}",
        "error": one_line(letter.error),
        "failed at": letter.failed_at.isoformat(timespec="seconds"),
    }
    if letter.reason is Reason.UNREADABLE and (event := next(iter(letter.envelopes), None)) is not None:
        facts["way out"] = (
            f"deploy code of {one_line(letter.service)} that reads what {one_line(event.source)} announces as "
            f"{event.type} version {event.version}, and replay it; or give it the fields that are missing: edit"
        )
    if letter.undoes:
        facts["not undone"] = f"the effect of {one_line(letter.undoes)} stands until this is replayed"
    return [wrapped(f"{name + ':':<13}{value}", " " * 13) for name, value in facts.items()]


def _rows(letters: Sequence[DeadLetter]) -> Iterator[str]:
    """The lines of a list: the error is cut to the width, all else is whole."""
    if letters:
        yield _ROW.format("ID", "WHEN (UTC)", "REASON", "HANDLER: EVENT")
    for letter in letters:
        when = letter.failed_at.strftime("%m-%d %H:%M")
        yield _ROW.format(letter.id, when, letter.reason, folded(f"{one_line(letter.handler)}: {letter}", _START))
        yield f"{'':{_ERROR}}{cut(one_line(letter.error), _ERROR)}"


def _demanding(effect: Envelope) -> str:
    """What demands that this effect is undone."""
    with suppress(ValueError):
        failure = read_demand(effect)[1]
        if failure is None:
            return "to be undone by hand"
        return f"to be undone because of {failure}  (id {one_line(failure.id)}, from {one_line(failure.source)})"
    return "to be undone because of an event that is not shown"


def _attempts(number: int) -> str:
    return f"after {counted(number, 'attempt')}" if number else "before its first attempt"


def _contents(letter: DeadLetter) -> list[str]:
    lines = []
    for envelope in letter.envelopes:
        origin = f"(id {one_line(envelope.id)}, from {one_line(envelope.source)})"
        fits = len(f"{envelope}  {origin}") <= WIDTH
        lines += ["", f"{envelope}  {origin}"] if fits else ["", str(envelope), f"  {origin}"]
        given = {name: value for name, value in envelope.extensions.items() if name not in UNSAID}
        lines += [f"  with {one_line(name)}={one_line(str(value))}" for name, value in given.items()]
        lines += [f"  {_demanding(envelope)}"] * is_demanded(envelope)
        lines += textwrap.indent(json.dumps(envelope.data, indent=2, ensure_ascii=False), "  ").splitlines()
    if not letter.envelopes:
        lines += ["", "The message:", textwrap.indent(letter.message.body.decode(errors="backslashreplace"), "  ")]
    if letter.traceback:
        lines += ["", letter.traceback.rstrip()]
    return lines
