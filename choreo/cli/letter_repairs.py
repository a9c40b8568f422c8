"""`choreo dead-letters replay` and `discard`: one letter, or a whole group."""

import shlex
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing

import click

from choreo.cli import completion
from choreo.cli.app import say, speaking, tell, tell_asleep
from choreo.cli.choosing import Choice, choosing
from choreo.cli.letter_groups import rows
from choreo.cli.progress import Interrupted, Watched, interruptible
from choreo.cli.rates import RATE
from choreo.delivery.dead_letter import DeadLetter
from choreo.errors import DeadLetterError, StoreError
from choreo.observe.words import counted, span
from choreo.operate.group_replay import Canary, Plan, Progress
from choreo.printing import one_line
from choreo.rates import rate_text
from choreo.service import Service

#: How many refusals are told, and how many letters a dry run shows.
MOST_TOLD = 10
_reason = click.option("--reason", metavar="TEXT", default="", help="Why, for the log: see `choreo repairs`.")


@click.command()
@click.argument("targets", nargs=-1, metavar="[GROUP|ID]...")
@click.option(
    "--to",
    metavar="SERVICE.HANDLER",
    help="Another handler: the new name of one.",
    shell_complete=completion.services_and_handlers,
)
@click.option("--canary", is_flag=True, help="One first; then tell how its run ended, and ask.")
@click.option("--rate", type=RATE, metavar="RATE", help="At most so many: 20/s, 300/m.")
@click.option("--dry-run", is_flag=True, help="Only say what would be replayed.")
@_reason
@click.option("--yes", is_flag=True, help="Do not ask. With --canary: go on if its run succeeded.")
@speaking
@choosing("options")
def replay(
    app: Service,
    choice: Choice,
    targets: tuple[str, ...],
    to: str | None,
    canary: bool,
    rate: float | None,
    dry_run: bool,
    reason: str,
    yes: bool,
) -> None:
    """
    Send events once more to the handlers that failed.

    No other handlers get them. Name groups and letters, or choose letters by the options: --handler, --cause, --since
    and --subject choose among the letters of the groups that are named, or among all letters.

    It stops by itself when more than half of the replayed ones fail again. Ctrl-C stops it after the current batch; the
    same command goes on. The exit code is 1 if a letter could not be replayed, if all failed again, or it has stopped.
    """
    plan = app.dead_letters.plan(*targets, names=choice.names, **choice.given)
    _check_chosen(plan)
    if dry_run:
        _tell_dry_run(app, plan, to)
        return
    if not (plan.groups or choice or canary or rate or not targets):
        _each(targets, lambda one: _replay_one(app, one, to, reason))
        return
    if not _is_any(plan):
        return
    if not (targets or canary or yes) and not click.confirm(f"Replay {_what(plan)}?"):
        return
    progress = app.dead_letters.replay_group(
        *targets, names=choice.names, **choice.given, to=to, rate=rate, canary=canary, reason=reason
    )
    again = _command("replay", targets, choice, to=to, rate=rate, reason=reason)
    _watch(progress, plan, "replayed", again, lambda told: _goes_on(told, yes))
    for handler in _handlers(plan, to):
        tell_asleep(app, handler)


@click.command()
@click.argument("targets", nargs=-1, metavar="[GROUP|ID]...")
@_reason
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@speaking
@choosing("options")
def discard(app: Service, choice: Choice, targets: tuple[str, ...], reason: str, yes: bool) -> None:
    """
    Delete dead letters for good.

    Name groups and letters, or choose letters by the options, as for `replay`. To keep a copy, run `export` first. The
    exit code is 1 if there is no such dead letter; the others are deleted.
    """
    plan = app.dead_letters.plan(*targets, names=choice.names, **choice.given)
    _check_chosen(plan)
    if not (plan.groups or choice or not targets):
        _each(targets, lambda one: _discard_one(app, one, reason, yes))
        return
    if not _is_any(plan) or not (yes or click.confirm(f"Forget {_what(plan)} for good?")):
        return
    progress = app.dead_letters.discard_group(*targets, names=choice.names, **choice.given, reason=reason)
    _watch(progress, plan, "forgotten", _command("discard", targets, choice, reason=reason))


def replayed(letter: DeadLetter, to: str | None = None) -> str:
    """Return the output of `choreo dead-letters replay` for this letter. ``to`` is the handler, if it is another."""
    where = to or letter.handler
    again = " again" if where == letter.handler else ""
    return f"{letter.id}: {letter} goes to {one_line(where)}{again}."


def _replay_one(app: Service, letter_id: str, to: str | None, reason: str) -> None:
    letter = app.dead_letters.replay(letter_id, to, reason=reason)
    say(replayed(letter, to))
    tell_asleep(app, to or letter.handler)


def _discard_one(app: Service, letter_id: str, reason: str, yes: bool) -> None:
    letter = app.dead_letters.get(letter_id)
    if yes or click.confirm(f"Forget {letter.id} ({one_line(letter.handler)}: {letter}) for good?"):
        app.dead_letters.discard(letter_id, reason=reason)
        say(f"{letter.id}: forgotten.")


def _each(letter_ids: Iterable[str], do: Callable[[str], None]) -> None:
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


def _check_chosen(plan: Plan) -> None:
    try:
        plan.check()
    except DeadLetterError as error:
        raise click.UsageError(str(error)) from error


def _is_any(plan: Plan) -> bool:
    """True if there is something to do. Else that is said, and is an error if something was named."""
    if plan.total:
        return True
    for error in plan.errors:
        tell(f"Error: {error}")
    if plan.errors:
        raise click.exceptions.Exit(1)
    say("No such dead letters.")
    return False


def _what(plan: Plan) -> str:
    """``300 dead letters (a3f1 loyalty.award_points)``."""
    return f"{counted(plan.total, 'dead letter')} ({one_line(plan.target)})"


def _handlers(plan: Plan, to: str | None) -> Sequence[str]:
    return [to] if to else sorted({group.handler for group in plan.groups})


def _watch(
    progress: Generator[Progress, None, None],
    plan: Plan,
    done: str,
    again: str,
    goes_on: Callable[[Progress], bool] = lambda _: True,
) -> None:
    """Show the progress until the end, a stop or Ctrl-C. ``again`` is the command that goes on."""
    told, errors, is_stopped = Progress(plan.total), 0, False
    try:
        with closing(progress), interruptible() as stop, Watched(plan.total, done) as shown:
            for told in progress:
                errors += _tell_errors(told.errors, errors)
                if told.canary is not None:
                    with shown.hidden():
                        is_stopped = not goes_on(told)
                else:
                    shown.update(told)
                if is_stopped:
                    break
                stop.check()
    except (Interrupted, click.Abort, KeyboardInterrupt):
        _tell_end(told, done)
        tell(f"Stopped. To go on: {again}")
        raise click.exceptions.Exit(130) from None
    except StoreError:
        tell(
            f"{told.done} of {told.total} {done}, and perhaps those of the batch that has just begun. To go on: {again}"
        )
        raise
    _tell_end(told, done)
    if told.text:
        tell(f"Stopped: {told.text}\nWhen that is mended: {again}")
    elif told.again:
        tell(f"`choreo dead-letters` tells why. When that is mended: {again}")
    if told.text or is_stopped or errors or told.refused or 0 < told.done == told.again:
        raise click.exceptions.Exit(1)


def _tell_errors(errors: Sequence[str], before: int) -> int:
    """Print why letters were refused, the first ones; and return how many there were."""
    for error in errors[: max(MOST_TOLD - before, 0)]:
        tell(f"Error: {error}")
    if before <= MOST_TOLD < before + len(errors):
        tell("Error: and others like these.")
    return len(errors)


def _tell_end(told: Progress, done: str) -> None:
    kept = f", {told.refused} not" if told.refused else ""
    again = f", {told.again} of them failed again" if told.again else ""
    say(f"{told.done} of {told.total} {done}{kept}{again}.")


def _goes_on(told: Progress, yes: bool) -> bool:
    """Tell how the run of the canary ended, and ask if the others are to follow."""
    canary = told.canary
    assert canary is not None
    say(f"1 of {told.total} replayed ({_name(canary.letter)}): {_ending(canary)}.")
    if not told.left:
        return True
    if yes:
        return canary.outcome == "done"
    return click.confirm(f"Go on with {told.left}?")


def _ending(canary: Canary) -> str:
    if canary.outcome == "done":
        return f"done in {span(canary.took)}"
    return f"failed again: {one_line(canary.text)}" if canary.outcome == "failed" else canary.text


def _name(letter: DeadLetter) -> str:
    return one_line(letter.subject) or letter.id


def _tell_dry_run(app: Service, plan: Plan, to: str | None) -> None:
    """Say what would be replayed: the groups, some letters, and why the first letter would be refused."""
    for error in plan.errors:
        tell(f"Error: {error}")
    if plan.groups:
        for line in rows(plan.groups):
            say(line)
        say("")
    letters = app.dead_letters.read(plan, MOST_TOLD)
    for letter in letters:
        say(f"{letter.id}  {one_line(letter.handler)}: {letter}")
    if plan.total > len(letters):
        say(f"... and {plan.total - len(letters)} more")
    say(f"\n{counted(plan.total, 'dead letter')} would be replayed{f' to {one_line(to)}' if to else ''}. Nothing was.")
    for letter in letters[:1]:
        try:
            app.dead_letters.check(letter, to)
        except DeadLetterError as error:
            raise click.ClickException(str(error)) from error
    if plan.errors:
        raise click.exceptions.Exit(1)


def _command(name: str, targets: Sequence[str], choice: Choice, *, rate: float | None = None, **options: object) -> str:
    """The command that goes on."""
    names = [f"--handler {shlex.quote(one)}" for one in choice.names]
    given = [f"--{option} {shlex.quote(str(value))}" for option, value in options.items() if value]
    words = ["choreo dead-letters", name, *targets, *names, *choice.options(), *given]
    return " ".join([*words, *([f"--rate {rate_text(rate)}"] if rate else [])])
