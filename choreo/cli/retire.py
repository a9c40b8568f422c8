"""`choreo topology retire`: removes a handler that no code declares any more."""

import shlex
import time
from contextlib import closing

import click

from choreo.cli import completion
from choreo.cli.app import say, speaking, tell
from choreo.cli.folding import folded
from choreo.cli.progress import EVERY, Interrupted, interruptible
from choreo.cli.quiet import unlogged
from choreo.observe.words import counted
from choreo.operate.retirement import Left
from choreo.printing import one_line
from choreo.service import Service


@click.command("retire")
@click.argument("handler", metavar="HANDLER", shell_complete=completion.services_and_handlers)
@click.option("--drain", is_flag=True, help="Begin although workers declare it: they work off its queue.")
@click.option("--move-to-dead-letters", "to_letters", is_flag=True, help="Make dead letters of all that waits.")
@click.option(
    "--redirect-to",
    "to",
    default="",
    metavar="SERVICE.HANDLER",
    shell_complete=completion.services_and_handlers,
    help="Send all that waits to another handler.",
)
@click.option("--cancel", is_flag=True, help="Keep the handler after all.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log: see `choreo repairs`.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@speaking
def retire(
    app: Service, handler: str, drain: bool, to_letters: bool, to: str, cancel: bool, reason: str, yes: bool
) -> None:
    """
    Remove a handler that no code declares any more.

    Its bindings, queue, state and name are removed.

    First it is unbound, so that it gets no more events. Its queue is deleted once nothing is left: no message, no
    entry of its schedule, no pending join, no dead letter, and no live worker that declares it. With
    --move-to-dead-letters or --redirect-to, what waits goes there; dead letters stay until you replay or discard them.

    It can end at any time, also by kill -9: the same command goes on, and nothing is lost or moved twice. A worker that
    declares the handler and starts meanwhile, or later, calls it back, and says so in its log.

    The exit code is 1 if something is left that nobody takes.
    """
    if to_letters and to:
        raise click.UsageError("--move-to-dead-letters and --redirect-to exclude each other. Choose one.")
    if cancel:
        app.runtime.retirements.cancel(handler, reason=reason)
        say(f"{one_line(handler)} is kept. Workers that declare it bind its queue again within 15 seconds.")
        return
    left = app.runtime.retirements.look(handler)
    if not yes and not click.confirm(f"Retire {one_line(handler)} ({left} left)?"):
        return
    steps = app.runtime.retirements.retire(handler, drain=drain, to=to, to_dead_letters=to_letters, reason=reason)
    told_at = time.monotonic()
    try:
        with unlogged("choreo.delivery.notice"), closing(steps), interruptible() as stop:
            for left in steps:
                if time.monotonic() >= told_at + EVERY:
                    told_at = time.monotonic()
                    tell(_progress(left))
                stop.check()
    except (Interrupted, KeyboardInterrupt):
        again = _command(handler, drain, to_letters, to, reason)
        tell(f"Stopped, {left} left. It gets no more events. To go on: `{again}`")
        raise click.exceptions.Exit(130) from None
    say(folded(_end(handler, left, to), 0))
    if left.is_undo:
        say(folded(_behind(handler, to), 0))


def _progress(left: Left) -> str:
    moved = f"{left.moved} moved, " if left.moved else ""
    owners = f" (declared by {', '.join(left.owners)})" if left.owners else ""
    return f"{moved}{left} left{owners}"


def _end(handler: str, left: Left, to: str) -> str:
    name = one_line(handler)
    moved = f" {left.moved} went to {one_line(to) or 'dead letters'}." if left.moved else ""
    if left.is_forgotten:
        return f"{name} is retired: its queue is deleted, and nothing of it is kept.{moved}"
    if left.dead_letters:
        letters = counted(left.dead_letters, "dead letter")
        return (
            f"The queue of {name} is deleted.{moved} It keeps {letters}: `choreo dead-letters replay --handler {name} "
            f"--to SERVICE.HANDLER`, or `discard`. Then `choreo topology retire {name}` forgets the rest."
        )
    return (
        f"The queue of {name} is deleted.{moved} Messages that it has announced are still in its schedule; a worker of "
        f"its service sends them. Then `choreo topology retire {name}` forgets the rest."
    )


def _behind(handler: str, to: str) -> str:
    """What a handler that undoes effects leaves behind, wherever the rest went."""
    other = f", nor by {one_line(to)}" if to else ""
    return (
        f"Failures whose effects had not come yet are not moved: such an effect that is announced from now on is not "
        f"undone by {one_line(handler)}{other}. `choreo effects SUBJECT` tells what stands."
    )


def _command(handler: str, drain: bool, to_letters: bool, to: str, reason: str) -> str:
    options = ["--drain"] * drain + ["--move-to-dead-letters"] * to_letters
    options += ["--redirect-to", to] if to else []
    options += ["--reason", reason] if reason else []
    return shlex.join(["choreo", "topology", "retire", handler, *options])
