"""`choreo effects`: the effects about an order that can be undone, and what became of each."""

from collections.abc import Iterator

import click

from choreo.cli import completion
from choreo.cli.app import check_named, say, speaking
from choreo.cli.verdict import say_steps, say_verdict, wrapped
from choreo.observe.cause import Weight
from choreo.observe.effects import Effect, State
from choreo.observe.words import clock
from choreo.printing import one_line
from choreo.service import Service

_WEIGHTS = {State.FAILED: Weight.STUCK, State.UNDOING: Weight.WAITING}


@click.command()
@click.argument("what", metavar="SUBJECT|ID", shell_complete=completion.subjects)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@speaking
def effects(app: Service, what: str, as_json: bool) -> None:
    """
    Show the effects of an order, and which were undone.

    Listed is each event that announced an effect which a handler undoes (@app.on(..., undoes=...)), and what became of
    it: it stands, it is being undone, it was undone, or undoing it has failed, with the next step.

    The exit code is 1 if undoing one has failed.
    """
    check_named(what)
    found = app.observe.effects(what)
    if as_json:
        say(found.to_json())
    elif not found.effects:
        say(wrapped(_nothing(app, what)))
    for number, effect in enumerate(() if as_json else found.effects):
        if number:
            say("")
        _print(effect, found.now)
    for note in () if as_json else found.notes:
        say(wrapped(f"NOTE  {note}", "      "))
    if found.is_any_failed:
        click.get_current_context().exit(1)


def _nothing(app: Service, what: str) -> str:
    if not any(handler.undoes for handler in app.observe.map().handlers):
        return "No handler of a known service undoes an effect: none is declared with undoes=."
    return f"No effect that a handler undoes is known about {one_line(what)}. `choreo trace` shows what is."


def _print(effect: Effect, now: float) -> None:
    at = f" at {clock(effect.at, now)}" if effect.at else ""
    by = f" by {effect.made_by}" if effect.made_by else ""
    say_verdict(f"{effect.state.upper():<12}  {effect.type}{at}{by}", _WEIGHTS.get(effect.state, Weight.DONE))
    for line in _lines(effect, now):
        say(wrapped(f"  {line}", "    "))
    say_steps(effect.do)


def _lines(effect: Effect, now: float) -> Iterator[str]:
    """What is known of it."""
    if effect.demanded_by:
        at = f" at {clock(effect.demanded_at, now)}" if effect.demanded_at else ""
        how = "final since" if effect.state is State.FINAL else "demanded by"
        yield f"{how} {effect.demanded_by}{at}"
    if effect.undone_at is not None:
        announced = ", ".join(dict.fromkeys(kind for kind, _ in effect.announced))
        yield f"undone at {clock(effect.undone_at, now)} by {effect.undone_by}{f' -> {announced}' if announced else ''}"
    elif effect.state is State.STANDS:
        yield _standing(effect, now)
    elif effect.state is not State.FINAL:
        yield f"undone by {effect.undone_by}{f': {one_line(effect.why)}' if effect.why else ''}"
    elif effect.why:
        yield f"by hand: {one_line(effect.why)}"


def _standing(effect: Effect, now: float) -> str:
    failures = " or ".join(effect.failures)
    if effect.until is None:
        return f"nothing demands it, and {effect.undone_by} does not wait for {failures} any more"
    return f"{effect.undone_by} waits until {clock(effect.until, now)} for {failures}, which may never come"
