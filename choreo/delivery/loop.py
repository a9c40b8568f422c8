"""Loops: services that answer each other without an end. The setting ``choreo_max_hops`` ends them."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from choreo.errors import LoopError, StoreError
from choreo.events.envelope import Envelope
from choreo.store.port import Store
from choreo.store.runs import Run

#: The most types of a circle that an error names.
MOST_NAMED = 10


def deepest(cause: Envelope, events: Iterable[Envelope]) -> Envelope:
    """The cause, with the hops of the event that has the most of them; 0 if there is none."""
    hops = max((event.hops for event in events), default=0)
    return cause if cause.hops == hops else replace(cause, hops=hops)


def endless(store: Store, event: Envelope, announced: Sequence[Envelope], max_hops: float) -> LoopError:
    """
    The error of a handler that has this event in hand, and announces events to which too many have led.

    It names the circle of types, as far as the record of runs knows it.
    """
    runs: list[Run] = []
    with suppress(StoreError):  # the circle is for people
        runs = _runs_of(store, event)
    circle = circle_to(event, {one.type for one in announced}, runs)
    named = circle if len(circle) <= MOST_NAMED else [*circle[: MOST_NAMED - 1], "...", circle[-1]]
    return LoopError(
        f"{' -> '.join(named)}: {announced[0].hops} events in a row have caused each other, and choreo_max_hops is "
        f"{max_hops}. End the loop in one of the handlers, or raise choreo_max_hops if it is none; a replay counts "
        f"from 0 again"
    )


def circle_to(event: Envelope, announced: set[str], runs: Iterable[Run]) -> list[str]:
    """
    The types from the last earlier event of one of the announced types to that type again.

    If these runs do not tell of one: only the types of the event in hand and of one that is announced.
    """
    makers = {event_id: run for run in runs for _, event_id in run.announced}
    way, seen = [event.type], {event.id}
    maker = makers.get(event.id)
    while way[0] not in announced and maker is not None and maker.event not in seen:
        way.insert(0, maker.type)
        seen.add(maker.event)
        maker = makers.get(maker.event)
    return [*way, way[0]] if way[0] in announced else [event.type, min(announced)]


def _runs_of(store: Store, event: Envelope) -> list[Run]:
    """The recorded runs of the event's story."""
    return [run for name in store.handlers() for run in store.runs(name, event.correlation_id, event.subject)]
