"""`choreo dead-letters`: lists, shows, replays and discards dead letters."""

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence

import click

from choreo.cli import completion
from choreo.cli.app import check_names, say, speaking, tell, tell_asleep, tell_undeclared
from choreo.cli.folding import cut, folded
from choreo.cli.group import Group
from choreo.cli.verdict import WIDTH, wrapped
from choreo.cli.where import connecting
from choreo.delivery.dead_letter import DeadLetter
from choreo.errors import DeadLetterError
from choreo.printing import one_line
from choreo.service import Service

_ROW = "{:<10}  {:<11}  {:<10}  {}"
#: The column in which the last field begins, and the one in which the error does, on a line of its own.
_START, _ERROR = 37, 12
#: The most dead letters that are listed, unless --limit says otherwise.
LIMIT = 50


@click.group("dead-letters", cls=Group)
@connecting
def dead_letters() -> None:
    """List, replay or discard events that failed for good."""


@dead_letters.command("list")
@click.argument("names", nargs=-1, metavar="[SERVICE|HANDLER]...", shell_complete=completion.services_and_handlers)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=LIMIT,
    show_default=True,
    help="The most dead letters to list. 0: no limit.",
)
@click.option("--after", metavar="PLACE", default="", help="Continue an earlier list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def list_(app: Service, names: tuple[str, ...], limit: int, after: str, as_json: bool) -> None:
    """
    List dead letters with their errors, oldest first.

    Of all handlers, or of the given services or handlers.
    """
    check_names(app, names, app.dead_letters.handlers)
    left = _rest(app.dead_letters.find(*names), after)
    shown = left[: limit or None]
    for line in map(DeadLetter.to_json, shown) if as_json else _rows(shown):
        say(line)
    if len(shown) < len(left):
        most = [] if limit == LIMIT else ["--limit", str(limit)]
        more = " ".join(["choreo dead-letters list", *names, *most, "--after", _place(shown[-1])])
        say(f"More: {more}", err=as_json)
    if as_json:
        return
    if not left:
        say(f"No {'more ' if after else ''}dead letters{' of ' * bool(names)}{', '.join(names)}.")
        return
    how_many = f"{len(shown)} of {len(left)}" if len(shown) < len(left) else f"{len(left)} in all"
    say(f"\n{how_many}. `choreo dead-letters show ID` tells more.")
    tell_undeclared(app, [letter.handler for letter in shown])


@dead_letters.command()
@click.argument("letter_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="The letter as one JSON object.")
@speaking
def show(app: Service, letter_id: str, as_json: bool) -> None:
    """Show one dead letter: its event, error, attempts and traceback."""
    letter = app.dead_letters.get(letter_id)
    say(letter.to_json() if as_json else "\n".join([*headlines(letter), *_contents(letter)]))


@dead_letters.command()
@click.argument("letter_ids", nargs=-1, required=True, metavar="ID...")
@click.option(
    "--to",
    metavar="SERVICE.HANDLER",
    help="Another handler: the new name of one.",
    shell_complete=completion.services_and_handlers,
)
@speaking
def replay(app: Service, letter_ids: tuple[str, ...], to: str | None) -> None:
    """
    Send events once more to the handlers that failed.

    No other handlers get them. The exit code is 1 if one of the dead letters could not be replayed; the others are.
    """

    def replay_one(letter_id: str) -> None:
        letter = app.dead_letters.replay(letter_id, to)
        say(replayed(letter, to))
        tell_asleep(app, to or letter.handler)

    each(letter_ids, replay_one)


@dead_letters.command()
@click.argument("letter_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@speaking
def discard(app: Service, letter_ids: tuple[str, ...], yes: bool) -> None:
    """
    Delete dead letters for good.

    To keep a copy, run `show --json` first. The exit code is 1 if there is no such dead letter; the others are deleted.
    """

    def discard_one(letter_id: str) -> None:
        letter = app.dead_letters.get(letter_id)
        if yes or click.confirm(f"Forget {letter.id} ({one_line(letter.handler)}: {letter}) for good?"):
            app.dead_letters.discard(letter_id)
            say(f"{letter.id}: forgotten.")

    each(letter_ids, discard_one)


def headlines(letter: DeadLetter) -> list[str]:
    """Return the first lines of `choreo dead-letters show`: the id, handler, reason, error and time."""
    facts = {
        "dead letter": letter.id,
        "handler": one_line(letter.handler),
        "reason": f"{letter.reason}, {_attempts(letter.attempts)}",
        "error": one_line(letter.error),
        "failed at": letter.failed_at.isoformat(timespec="seconds"),
    }
    return [wrapped(f"{name + ':':<13}{value}", " " * 13) for name, value in facts.items()]


def replayed(letter: DeadLetter, to: str | None = None) -> str:
    """Return the output of `choreo dead-letters replay` for this letter. ``to`` is the handler, if it is another."""
    where = to or letter.handler
    again = " again" if where == letter.handler else ""
    return f"{letter.id}: {letter} goes to {one_line(where)}{again}."


def each(letter_ids: Iterable[str], do: Callable[[str], None]) -> None:
    """Call ``do`` with each id. An error is one line, and the others go on; then the command ends with exit code 1."""
    failed = False
    for letter_id in dict.fromkeys(letter_ids):
        try:
            do(letter_id)
        except DeadLetterError as error:
            failed = True
            tell(f"Error: {error}")
    if failed:
        raise click.exceptions.Exit(1)


def _place(letter: DeadLetter) -> str:
    """The place of a letter in the list: the moment of its failure, and its id."""
    return f"{letter.failed_at.timestamp():.6f}-{letter.id}"


def _rest(letters: list[DeadLetter], after: str) -> list[DeadLetter]:
    """The letters behind a place, also if the letter of that place is gone."""
    if not after:
        return letters
    moment, _, letter_id = after.partition("-")
    try:
        at = float(moment)
    except ValueError:
        raise click.BadParameter(
            f"{after!r} is no place in a list of dead letters. The list before ends with the next place.",
            param_hint="--after",
        ) from None
    # Letters of one moment are in the order of the store.
    for number, letter in enumerate(letters):
        if letter.id == letter_id:
            return letters[number + 1 :]
    return [letter for letter in letters if round(letter.failed_at.timestamp(), 6) >= at]


def _rows(letters: Sequence[DeadLetter]) -> Iterator[str]:
    """The lines of a list: the error is cut to the width, all else is whole."""
    if letters:
        yield _ROW.format("ID", "WHEN (UTC)", "REASON", "HANDLER: EVENT")
    for letter in letters:
        when = letter.failed_at.strftime("%m-%d %H:%M")
        yield _ROW.format(letter.id, when, letter.reason, folded(f"{one_line(letter.handler)}: {letter}", _START))
        yield f"{'':{_ERROR}}{cut(one_line(letter.error), _ERROR)}"


def _attempts(number: int) -> str:
    return f"after {number} attempt{'s' * (number != 1)}" if number else "before its first attempt"


def _contents(letter: DeadLetter) -> list[str]:
    lines = []
    for envelope in letter.envelopes:
        origin = f"(id {one_line(envelope.id)}, from {one_line(envelope.source)})"
        fits = len(f"{envelope}  {origin}") <= WIDTH
        lines += ["", f"{envelope}  {origin}"] if fits else ["", str(envelope), f"  {origin}"]
        lines += [f"  with {one_line(name)}={one_line(str(value))}" for name, value in envelope.extensions.items()]
        lines += textwrap.indent(json.dumps(envelope.data, indent=2, ensure_ascii=False), "  ").splitlines()
    if not letter.envelopes:
        lines += ["", "The message:", textwrap.indent(letter.message.body.decode(errors="backslashreplace"), "  ")]
    if letter.traceback:
        lines += ["", letter.traceback.rstrip()]
    return lines
