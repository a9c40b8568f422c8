"""Endless loops: the services of a stage answer each other for ever."""

from collections.abc import Sequence

from choreo.errors import ChoreoError
from choreo.testing.log import Announced, Log

#: Steps that are told where there is no loop.
MOST_STEPS = 10


class EndlessLoopError(ChoreoError, AssertionError):
    """A call of a stage made more deliveries than its bound. The message names the events and handlers of the loop."""


def loop_in(log: Log) -> str:
    """
    The loop that the last announced event is in: "order.placed -> payment.charge -> payment.charged -> ...".

    Without a loop, the last steps that led to the event.
    """
    steps = _steps_to(log.announced[-1], log.announced) if log.announced else []
    for length in range(1, len(steps)):
        if steps[length] == steps[0]:
            steps = steps[: length + 1]
            break
    else:
        steps = steps[:MOST_STEPS]
    words = [word for event_type, handler in reversed(steps) for word in (handler, event_type)]
    return " -> ".join(word for word in words[1:] if word)


def _steps_to(last: Announced, announced: Sequence[Announced], most: int = 100) -> list[tuple[str, str]]:
    """The event types, each with the handler that announced it, the last one first."""
    by_id = {one.event.id: one for one in announced}
    steps: list[tuple[str, str]] = []
    one: Announced | None = last
    while one is not None and len(steps) < most:
        steps.append((one.event.type, one.by))
        one = by_id.get(one.cause) if one.cause else None
    return steps
