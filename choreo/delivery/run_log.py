"""
The line that a worker logs of each run, by the logger ``choreo.runs``.

A success is INFO, a retry WARNING. A dead letter is ERROR, by a logger of its own: see `choreo.delivery.notice`. A
delivery without a run (a join waits for more parts, or the event was handled before) is DEBUG.

The line comes after the outcome is recorded. In the fast lane, where the answer to a commit comes later, it comes when
the commit was sent. If the store then refuses the commit, a second line says so.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from choreo.delivery.failure import shown_trace
from choreo.printing import one_line
from choreo.store.runs import Result, Run

logger = logging.getLogger("choreo.runs")

#: The levels of runs that are no success.
_LEVELS = {Result.RETRY: logging.WARNING, Result.HELD: logging.WARNING, Result.DEAD: logging.ERROR}

_TEXT = "%s: %s in %s [attempt %d of %d, waited %s, event %s, story %s]"
_BATCH = "%s: %s in %s [waited up to %s]"
_RETRY = "%s: %s [took %s, waited %s, event %s, story %s]"
_NO_RUN = "%s: %s [event %s, story %s]"


def is_told(result: Result) -> bool:
    """True if the log takes the line of a run with this result."""
    return logger.isEnabledFor(_LEVELS.get(result, logging.INFO))


def fields_of(run: Run, service: str, attempts: int) -> dict[str, Any]:
    """What a log record has as attributes: see docs/logging.md. ``attempts`` is the largest number of them."""
    return {
        "service": service,
        "handler": run.handler,
        "type": run.type,
        "subject": run.subject,
        "event_id": run.event,
        "story": run.story,
        "attempt": run.attempt,
        "attempts": attempts,
        "outcome": str(run.result),
        "waited": round(run.waited, 6),
        "took": round(run.took, 6),
        "worker": run.worker,
        "announced": list(dict.fromkeys(kind for kind, _ in run.announced)),
    }


def log_success(level: int, what: str, run: Run, service: str, attempts: int) -> None:
    """Log a run that was no failure. ``what`` names the delivery."""
    outcome = str(run.result)
    if run.announced:
        types = f"announced {counted([kind for kind, _ in run.announced])}"
        outcome = types if run.result is Result.DONE else f"{outcome}, {types}"
    args = what, outcome, in_words(run.took), run.attempt, attempts, in_words(run.waited), *_ids(run)
    _log(level, _TEXT, args, fields_of(run, service, attempts))


def log_batch(what: str, announced: Sequence[str], took: float, waited: float, fields: dict[str, Any]) -> None:
    """Log the success of several events at once. ``waited`` is the longest of their waits, in seconds."""
    outcome = f"announced {counted(announced)}" if announced else str(Result.DONE)
    _log(logging.INFO, _BATCH, (what, outcome, in_words(took), in_words(waited)), fields)


def log_retry(what: str, reason: str, run: Run, fields: dict[str, Any], error: BaseException) -> None:
    """Log a failed attempt. ``reason`` says that it is retried, and why. The traceback is shown at level DEBUG only."""
    shown = shown_trace(error) if logger.isEnabledFor(logging.DEBUG) else ""
    args = what, reason, in_words(run.took), in_words(run.waited), *_ids(run)
    _log(logging.WARNING, _RETRY, args, fields, shown)


def log_no_run(level: int, what: str, words: str, run: Run, fields: dict[str, Any]) -> None:
    """Log a delivery that called no handler."""
    _log(level, _NO_RUN, (what, words, *_ids(run)), fields)


def in_words(seconds: float) -> str:
    """A duration for people: ``3 ms``, ``1.2 s``, ``4.0 min``, ``2.5 h``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3597 else f"{seconds / 3600:.1f} h"


def counted(types: Sequence[str]) -> str:
    """Each type once, with its number if there are several: ``order.packed (3), order.shipped``."""
    if len(types) == 1:
        return types[0]
    counts = Counter(types)
    return ", ".join(kind if count == 1 else f"{kind} ({count})" for kind, count in counts.items())


def _ids(run: Run) -> tuple[str, str]:
    return one_line(run.event), one_line(run.story)


def _log(level: int, text: str, args: tuple[Any, ...], fields: dict[str, Any], trace: str = "") -> None:
    # Not `logger.log`, which looks for its caller in the stack: that takes longer than everything else here.
    record = logger.makeRecord(logger.name, level, __file__, 0, text, args, None)
    vars(record).update(fields)
    if trace:
        record.exc_text = trace  # there need be no `exc_info`
    logger.handle(record)
