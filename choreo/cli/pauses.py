"""`choreo pause` and `choreo resume`: stop a handler, slow it down, and let it go on."""

import time
from collections.abc import Sequence

import click

from choreo.cli import completion
from choreo.cli.app import say, speaking, tell
from choreo.cli.folding import folded
from choreo.cli.quiet import unlogged
from choreo.cli.spans import SPAN
from choreo.observe.resuming import hint
from choreo.observe.words import counted, span
from choreo.printing import json_line, one_line
from choreo.service import Service
from choreo.store.pauses import Pause, Paused
from choreo.store.presence import Program

#: Seconds for which a command waits until the workers follow.
PATIENCE = 3.0


@click.command()
@click.argument("names", nargs=-1, metavar="[HANDLER|SERVICE]...", shell_complete=completion.services_and_handlers)
@click.option("--for", "seconds", type=SPAN, metavar="TIME", help="Resume it after this time: 30s, 10m, 2h, 1d.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for all who look.")
@click.option(
    "--rate", metavar="RATE", help="Slow it down instead, to so many events of all its workers together: 5/s, 10/m."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@speaking
def pause(
    app: Service, names: tuple[str, ...], seconds: float | None, reason: str, rate: str | None, as_json: bool
) -> None:
    """
    Pause a handler, or all handlers of a service. Without a name: list the pauses.

    Its workers finish what they have begun, and give the rest back to its queue, where all events wait. So do retries
    and deadlines of joins that fall due meanwhile. Nothing is lost, nothing counts as an attempt, and other handlers go
    on. It also holds for workers that start later. `choreo resume` ends it, and so does --for.

    Another pause of the same handler replaces the first one, with its --for, --reason and --rate.

    --rate is divided equally among the live workers that consume the queue. For some seconds after a worker has started
    the rate may be higher, and for a minute after one was killed it is lower.
    """
    if not names:
        if seconds is not None or reason or rate:
            raise click.UsageError("Name the handlers to pause.")
        _list(app, as_json=as_json)
        return
    with unlogged("choreo.operate.pauses"):
        done = [one for name in names for one in app.pauses.pause(name, seconds, reason=reason, rate=rate)]
    pauses = [one.pause for one in done if one.pause is not None]
    followed = _wait(app, pauses)
    for one in done:
        if one.pause is not None:
            say(_json(one.pause) if as_json else folded(_told(app, one, one.pause, followed), 0))


@click.command()
@click.argument(
    "names", nargs=-1, required=True, metavar="HANDLER|SERVICE...", shell_complete=completion.services_and_handlers
)
@click.option("--reason", default="", metavar="TEXT", help="Why, for all who look.")
@click.option("--json", "as_json", is_flag=True, help="The pauses that have ended: one JSON object per line.")
@speaking
def resume(app: Service, names: tuple[str, ...], reason: str, as_json: bool) -> None:
    """
    Resume a paused or slowed handler, or all of a service.

    Its workers go on with what has waited within a second. The exit code is 1 if nothing was paused.
    """
    with unlogged("choreo.operate.pauses"):
        ended = [one for name in names for one in app.pauses.resume(name, reason=reason)]
    for one in ended:
        lasted = span(app.runtime.store.now() - one.since.timestamp())
        words = f"{one.handler} is resumed. It was {one.state} for {lasted}.{_waits(app, one)}"
        say(_json(one) if as_json else folded(words, 0))
    if not ended:
        tell(f"Nothing is paused of {', '.join(map(one_line, names))}.")
        click.get_current_context().exit(1)


def _list(app: Service, *, as_json: bool) -> None:
    pauses = list(app.pauses)
    for one in pauses:
        say(_json(one) if as_json else folded(f"{one}; {hint(one)}", 0))
    if not pauses and not as_json:
        say("Nothing is paused.")


def _told(app: Service, done: Paused, pause: Pause, followed: bool) -> str:
    before = f" It was {done.before.state} before, since {done.before.since:%H:%M:%S} UTC." if done.before else ""
    workers = _consuming(app, pause)
    where = f"on {counted(len(workers), 'worker')}, also after restarts" if workers else "though no worker of it lives"
    slow = "" if followed or not workers else " Not every worker has confirmed that yet."
    until = f", until {pause.until:%Y-%m-%d %H:%M:%S} UTC" if pause.until else ""
    return (
        f"{pause.handler} is {pause.state} {where}{until}.{before}{slow}{_waits(app, pause)} {_capital(hint(pause))}."
    )


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _waits(app: Service, pause: Pause) -> str:
    """How many messages are in its queue; "" if the broker does not tell."""
    queue = app.runtime.queue_of(pause.handler)
    try:
        count = app.runtime.waiting_in([queue]).get(queue, 0)
    except Exception:  # the brokers' clients raise dozens of types
        return ""
    return f" {counted(count, 'event')} wait{'s' * (count == 1)}."


def _wait(app: Service, pauses: Sequence[Pause]) -> bool:
    """Wait until every live worker has followed, for `PATIENCE` seconds. True if it has."""
    stopped = [pause for pause in pauses if pause.is_stop]
    until = time.monotonic() + PATIENCE
    while not all(_is_followed(app, pause) for pause in stopped):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _is_followed(app: Service, pause: Pause) -> bool:
    queue = app.runtime.queue_of(pause.handler)
    return all(queue in worker.paused for worker in _consuming(app, pause))


def _consuming(app: Service, pause: Pause) -> list[Program]:
    """The live workers that consume the queue of a handler, or would."""
    workers = app.runtime.store.workers(pause.handler.partition(".")[0])
    return [worker for worker in workers if app.runtime.queue_of(pause.handler) in worker.queues]


def _json(pause: Pause) -> str:
    return json_line(pause.to_dict())
