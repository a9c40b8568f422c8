"""`choreo top`: the state of the whole platform at a glance, once or again and again."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table

from choreo.cli import completion
from choreo.cli.app import check_names, is_known, nobody, say, speaking
from choreo.cli.fitting import Fitting
from choreo.cli.tables import Piece, facts, screen, show, table, text, whole
from choreo.errors import StoreError
from choreo.observe import phrases
from choreo.observe.figures import count, rate, span
from choreo.observe.handlers import HandlerState
from choreo.observe.overview import Overview
from choreo.observe.resuming import hint
from choreo.observe.top import Top
from choreo.rates import rate_text
from choreo.service import Service

#: The most troubles that a screen shows if it is too small for all.
MOST_TROUBLES = 5
_EMPTY = "No handler is known. A service makes itself known when its worker starts."
_NUMBERS = ("WAIT", "OLDEST", "IN/s", "OUT/s", "P95", "ETA", "DEAD", "LATER")


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE|HANDLER]...", shell_complete=completion.services_and_handlers)
@click.option("--once", is_flag=True, help="Print one screen. The exit code is 1 if something is wrong.")
@click.option("--json", "as_json", is_flag=True, help="One screen as a JSON object.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0, max=3600),
    metavar="SECONDS",
    help="Between two looks.  [default: 2; with --once 1]",
)
@speaking
def top(app: Service, names: tuple[str, ...], once: bool, as_json: bool, interval: float | None) -> None:
    """
    Show what waits for each handler, and who works for it.

    WAIT is the number of messages in its queue, OLDEST the age of the event that is next (- on RabbitMQ). IN, OUT and
    P95 (95 of 100 runs took no longer) are from the record of runs of the last minute. ETA is the time until the queue
    is empty at this rate. LATER are retries, deadlines, delayed events, and events that wait for their turn
    (sequential_by). WORKERS are the live workers that consume the queue: NONE if no worker of the service lives,
    NONE -Q if none of them consumes this queue, PAUSED or a rate such as 5/s after `choreo pause`.

    Without a terminal it prints one screen. End it with q or Ctrl-C.

    \b
    With --once and --json, the exit code is 1 if something is wrong:
    - a handler has messages, and no worker takes them
    - a message is due for more than 10 seconds, and no worker sends it
    - a dead letter was made within the last 10 minutes
    - Redis has evicted keys or may, is nearly full, or cannot write
    - live versions of a service handle the same event with different handlers
    - a loop: events of one story cause their own type again and again
    - the broker does not answer
    - no service is known: it may be the wrong place
    """
    check_names(app, names, app.runtime.store.handlers())
    with closing(app.observe.watch()) as looking:
        if once or as_json or not screen().is_terminal or screen().is_dumb_terminal:
            # The rate of incoming events needs two counts of what waits.
            looking.sample(*names)
            time.sleep(1.0 if interval is None else interval)
            found = looking.look(*names)
            if not found.troubles and not is_known(app):
                raise click.ClickException(nobody(app))
            if as_json:
                say(json.dumps(found.to_dict()))
            else:
                _print(found)
            if (once or as_json) and found.troubles:
                click.get_current_context().exit(1)
        else:
            _live(looking, names, interval or 2.0, nobody(app))


def _print(found: Overview) -> None:
    """Print one screen. In a pipe its table is as wide as it needs to be, and its prose is wrapped all the same."""
    for part in drawn(found).renderables:
        if isinstance(part, Table) and part.show_header:
            whole(screen(), part)
        else:
            show(screen(), part)


def _live(looking: Top, names: tuple[str, ...], interval: float, empty: str) -> None:
    found = looking.look(*names)
    error = ""
    with suppress(KeyboardInterrupt), _single_keys(), Live(console=screen(), screen=True, auto_refresh=False) as live:
        while True:
            live.update(fitting(found, error, empty), refresh=True)
            if _pressed(interval) in ("q", "Q"):
                return
            try:
                found, error = looking.look(*names), ""
            except StoreError as fault:
                # The last screen stays, since the store may come back.
                error = f"The store does not answer: {fault}"


@contextmanager
def _single_keys() -> Iterator[None]:
    """Context manager: the terminal hands over each key at once, and shows none."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pressed(seconds: float) -> str:
    """Wait so long, or until a key is pressed. Returns the key, or ""."""
    import select

    if not sys.stdin.isatty():
        time.sleep(seconds)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return sys.stdin.read(1) if ready else ""


def fitting(found: Overview, error: str = "", empty: str = _EMPTY) -> Fitting:
    """One screen that fits the terminal. ``error`` comes first, if there is one. ``empty`` tells of no handlers."""
    before = [text((error, "red"))] if error else []
    return Fitting(*(Group(*before, drawn(found, empty, is_short=is_short)) for is_short in (False, True)))


def drawn(found: Overview, empty: str = _EMPTY, *, is_short: bool = False) -> Group:
    """One screen. A short one folds idle handlers, and all troubles but a few, to a number."""
    order = sorted(found.handlers, key=lambda state: (not state.trouble, -(state.waiting or 0), state.name))
    shown = [state for state in order if not is_short or not _is_idle(state)]
    rows = table("HANDLER", *_NUMBERS, "WORKERS", kept=(*_NUMBERS, "WORKERS"), right=_NUMBERS, gap=1)
    for state in shown:
        rows.add_row(*map(text, _row(state)))
    if found.delayed is not None and found.delayed.total:
        style = "red" if found.delayed_trouble else ""
        cells = ["delayed events", *["-"] * 7, count(found.delayed.total), "-"]
        rows.add_row(*(text((cell, style)) for cell in cells))
    idle = len(order) - len(shown)
    return Group(
        *_listed(_troubles(found, MOST_TROUBLES if is_short else None)),
        *([rows] if rows.row_count else []),
        *([text(f"{idle} {'more are' if shown else 'handlers are'} idle")] if idle else []),
        *([] if rows.row_count or idle else [text(empty)]),
        *_listed(_lines(found)),
    )


def _listed(lines: Iterable[tuple[str, Piece]]) -> list[Table]:
    rows = [(f"{name:<10}", text(piece)) for name, piece in lines]
    return [facts(rows)] if rows else []


def _is_idle(state: HandlerState) -> bool:
    """True if nothing is to be told of this handler."""
    return not (
        state.trouble or state.pause or state.waiting or state.outgoing or state.dead_letters or state.backlog.total
    )


def _troubles(found: Overview, most: int | None) -> Iterator[tuple[str, Piece]]:
    troubles = found.troubles
    for trouble in troubles[:most]:
        yield "TROUBLE", (trouble, "red")
    if left := len(troubles[most:]) if most is not None else 0:
        yield "TROUBLE", (f"{left} more: choreo top --once", "red")


def _row(state: HandlerState) -> list[Piece]:
    style = "red" if state.trouble else ""
    cells = [
        state.name,
        count(state.waiting),
        span(state.oldest),
        rate(state.incoming),
        rate(state.outgoing),
        span(state.p95),
        span(state.clears_in),
        count(state.dead_letters),
        count(state.backlog.total),
        _workers(state),
    ]
    return [(cell, style) for cell in cells]


def _workers(state: HandlerState) -> str:
    if state.is_undeclared:
        return "GONE"
    if not state.living:
        return "NONE"
    if state.pause is not None:
        return "PAUSED" if state.pause.rate is None else f"{rate_text(state.pause.rate)}"
    if not state.workers:
        return "NONE -Q"
    pools = [pool for pool in state.pools if pool != "prefork"]
    return f"{state.workers} {pools[0]}" if len(state.pools) == 1 and pools else str(state.workers)


def _lines(found: Overview) -> Iterator[tuple[str, Piece]]:
    for pause in found.paused:
        yield "PAUSED" if pause.is_stop else "SLOWED", (f"{pause}; {hint(pause)}", "yellow")
    if versions := phrases.versions(found):
        yield "VERSIONS", versions
    for division in found.divided:
        yield "DIVIDED", (division.text, "yellow")
    for server in found.servers:
        style = "red" if server.trouble else "yellow" if server.has_evicting_policy else ""
        yield "REDIS", (phrases.server(server), style)
    if found.namespaces is not None:
        others = [repr(name) if name != found.namespace else f"{name!r} (this one)" for name in found.namespaces]
        yield "NAMESPACES", ", ".join(others) or "none"
    for loop in found.loops:
        yield "LOOPS", (phrases.loop(loop), "red")
    for unheard in phrases.unheard(found):
        yield "UNHEARD", (unheard, "yellow")
    yield "NEXT HOUR", phrases.coming(found)
