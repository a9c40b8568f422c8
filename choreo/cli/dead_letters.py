"""`choreo dead-letters`: lists, shows, replays and discards dead letters."""

import json
import textwrap
from collections.abc import Callable, Iterable

import click

from choreo.cli import completion
from choreo.cli.app import check_names, say, speaking, tell_asleep, tell_undeclared
from choreo.cli.folding import folded
from choreo.cli.where import connecting
from choreo.delivery.dead_letter import DeadLetter
from choreo.errors import DeadLetterError
from choreo.printing import one_line
from choreo.service import Service

_ROW = "{:<10}  {:<11}  {:<10}  {}"
#: The column in which the last field begins.
_START = 37


@click.group("dead-letters")
@connecting
def dead_letters() -> None:
    """List, replay or discard events that failed for good."""


@dead_letters.command("list")
@click.argument("names", nargs=-1, metavar="[SERVICE|HANDLER]...", shell_complete=completion.services_and_handlers)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def list_(app: Service, names: tuple[str, ...], as_json: bool) -> None:
    """
    List dead letters, oldest first.

    Of all handlers, or of the given services or handlers.
    """
    check_names(app, names, app.dead_letters.handlers)
    letters = app.dead_letters.find(*names)
    if as_json:
        for letter in letters:
            say(letter.to_json())
        return
    if not letters:
        say("No dead letters." if not names else f"No dead letters of {', '.join(names)}.")
        return
    say(_ROW.format("ID", "WHEN (UTC)", "REASON", "HANDLER: EVENT"))
    for letter in letters:
        when = letter.failed_at.strftime("%m-%d %H:%M")
        say(_ROW.format(letter.id, when, letter.reason, folded(f"{one_line(letter.handler)}: {letter}", _START)))
    say(f"\n{len(letters)} in all. `choreo dead-letters show ID` tells more.")
    tell_undeclared(app, [letter.handler for letter in letters])


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
    return [f"{name + ':':<13}{value}" for name, value in facts.items()]


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
            say(f"Error: {error}", err=True)
    if failed:
        raise click.exceptions.Exit(1)


def _attempts(number: int) -> str:
    return f"after {number} attempt{'s' * (number != 1)}" if number else "before its first attempt"


def _contents(letter: DeadLetter) -> list[str]:
    lines = []
    for envelope in letter.envelopes:
        lines += ["", f"{envelope}  (id {one_line(envelope.id)}, from {one_line(envelope.source)})"]
        lines += [f"  with {one_line(name)}={one_line(str(value))}" for name, value in envelope.extensions.items()]
        lines += textwrap.indent(json.dumps(envelope.data, indent=2, ensure_ascii=False), "  ").splitlines()
    if not letter.envelopes:
        lines += ["", "The message:", textwrap.indent(letter.message.body.decode(errors="backslashreplace"), "  ")]
    if letter.traceback:
        lines += ["", letter.traceback.rstrip()]
    return lines
