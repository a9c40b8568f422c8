"""`choreo dead-letters`: what failed for good, and what to do about it."""

import json
import textwrap
from dataclasses import dataclass

import click

from choreo.cli.app import command_line_service, connecting
from choreo.dead_letter import DeadLetter, DeadLetters
from choreo.errors import DeadLetterError

_ROW = "{:<10}  {:<11}  {:<10}  {}"
_WIDTH = 43


@dataclass
class _Where:
    """What the group's options said."""

    letters: DeadLetters


@click.group("dead-letters")
@connecting
@click.pass_context
def dead_letters(context: click.Context, broker: str | None, store: str | None) -> None:
    """See and settle events whose handling failed for good."""
    context.obj = _Where(command_line_service(broker, store).dead_letters)


@dead_letters.command("list")
@click.argument("owners", nargs=-1, metavar="[SERVICE|HANDLER]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_(where: _Where, owners: tuple[str, ...], as_json: bool) -> None:
    """List dead letters, oldest first: all, or those of these services or handlers."""
    letters = where.letters.find(*owners)
    if as_json:
        for letter in letters:
            click.echo(letter.to_json())
        return
    if not letters:
        click.echo("No dead letters." if not owners else f"No dead letters of {', '.join(owners)}.")
        return
    click.echo(_ROW.format("ID", "WHEN (UTC)", "REASON", "HANDLER: EVENT"))
    for letter in letters:
        when = letter.failed_at.strftime("%m-%d %H:%M")
        what = f"{letter.handler}: {letter}"
        what = what if len(what) <= _WIDTH else f"{what[: _WIDTH - 3]}..."
        click.echo(_ROW.format(letter.id, when, letter.reason, what))
    click.echo(f"\n{len(letters)} in all. `choreo dead-letters show ID` tells more.")


@dead_letters.command()
@click.argument("letter_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="The letter as one JSON object.")
@click.pass_obj
def show(where: _Where, letter_id: str, as_json: bool) -> None:
    """Show one dead letter whole: the event, the error, the attempts."""
    letter = _found(where, letter_id)
    click.echo(letter.to_json() if as_json else _described(letter))


@dead_letters.command()
@click.argument("letter_ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def replay(where: _Where, letter_ids: tuple[str, ...]) -> None:
    """Hand events once more to the handlers that failed, and to nobody else."""
    for letter_id in letter_ids:
        try:
            letter = where.letters.replay(letter_id)
        except DeadLetterError as error:
            raise click.ClickException(str(error)) from error
        click.echo(f"{letter.id}: {letter} goes to {letter.handler} again, as soon as its service runs.")


@dead_letters.command()
@click.argument("letter_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def discard(where: _Where, letter_ids: tuple[str, ...], yes: bool) -> None:
    """Forget dead letters for good. `show --json` keeps a copy."""
    for letter_id in letter_ids:
        letter = _found(where, letter_id)
        if yes or click.confirm(f"Forget {letter.id} ({letter.handler}: {letter}) for good?"):
            where.letters.discard(letter_id)
            click.echo(f"{letter.id}: forgotten.")


def _found(where: _Where, letter_id: str) -> DeadLetter:
    try:
        return where.letters.get(letter_id)
    except DeadLetterError as error:
        raise click.ClickException(str(error)) from error


def _described(letter: DeadLetter) -> str:
    facts = {
        "dead letter": letter.id,
        "handler": letter.handler,
        "reason": f"{letter.reason}, after {letter.attempts} attempt{'s' * (letter.attempts != 1)}",
        "error": letter.error,
        "failed at": letter.failed_at.isoformat(timespec="seconds"),
    }
    lines = [f"{name + ':':<13}{value}" for name, value in facts.items()]
    for envelope in letter.envelopes:
        lines += ["", f"{envelope}  (id {envelope.id}, from {envelope.source})"]
        lines += textwrap.indent(json.dumps(envelope.data, indent=2, ensure_ascii=False), "  ").splitlines()
    if not letter.envelopes:
        lines += ["", "What came:", textwrap.indent(letter.message.body.decode(errors="backslashreplace"), "  ")]
    if letter.traceback:
        lines += ["", letter.traceback.rstrip()]
    return "\n".join(lines)
