"""Errors of handlers: how they are shown, kept in dead letters, and raised again without harm to the worker."""

import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType

from choreo.errors import HandlerCrashed
from choreo.events.redaction import without
from choreo.masking import without_secrets
from choreo.printing import lines, one_line

#: Errors that Celery and gevent raise to stop a worker or a greenlet. By name, since this room imports neither.
_STOPS = frozenset({"WorkerShutdown", "WorkerTerminate", "GreenletExit"})

#: Signals that tell a process of the pool to end.
_ENDING_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})

#: The base class of Celery's Retry, Ignore and Reject.
_PREDICATE = "TaskPredicate"

#: The most characters of an error's text, and of a traceback, that are logged, stored and shown.
MOST_TEXT, MOST_TRACE = 2_000, 50_000
#: The most characters of an error in a line of the log.
MOST_LOGGED = 500


class RetryScheduledError(Exception):
    """
    An attempt has failed, and its retry is in the schedule.

    ``reason`` is a line for people; ``error`` is the handler's; ``seconds`` is the wait until the next attempt.
    """

    def __init__(self, reason: str, error: Exception, seconds: float) -> None:
        super().__init__(reason)
        self.reason, self.error, self.seconds = reason, error, seconds


def is_stop(error: BaseException) -> bool:
    """True if the worker, or this process of its pool, is being stopped; False if the handler failed."""
    return is_ending() or not _STOPS.isdisjoint(cls.__name__ for cls in type(error).__mro__)


def is_ending() -> bool:
    """
    True if a signal has told this process of a pool to end. It raises SystemExit in the handler.

    The worker's main process knows why (a time limit, `celery control terminate`), and decides what becomes of the run.
    """
    # Only the pool of processes loads it, and this room imports no Celery.
    billiard = sys.modules.get("billiard.common")
    return billiard is not None and bool(billiard.terminate_handler_fired())


def harmless(error: BaseException) -> Exception:
    """
    The error itself if it is an ordinary `Exception`, else a `HandlerCrashed` whose cause it is.

    Raised in a Celery task, SystemExit, MemoryError and the like would end the worker, or block its slot for ever, and
    Celery's Reject and Ignore would decide what becomes of the message.
    An error with an enormous text becomes a `HandlerCrashed` with the beginning of it: Celery would log all of it.
    """
    if _length(error) > MOST_TRACE:
        short = HandlerCrashed(line_of(error)).with_traceback(error.__traceback__)
        short.__suppress_context__ = True
        return short
    is_ordinary = isinstance(error, Exception) and not isinstance(error, (MemoryError, RecursionError))
    if is_ordinary and not any(cls.__name__ == _PREDICATE for cls in type(error).__mro__):
        return error  # type: ignore[return-value]
    crashed = HandlerCrashed(line_of(error))
    crashed.__cause__ = error
    return crashed


def veiled(error: BaseException, values: Sequence[str]) -> BaseException:
    """
    The error itself, or a `HandlerCrashed` in its place if a redacted value is in what it shows.

    ``values`` are those of `choreo.events.redaction.hidden`. The line of the original is the text of the other one.
    """
    if not any(value in trace for trace in (trace_of(error) if values else "",) for value in values):
        return error
    other = HandlerCrashed(without(line_of(error), values)).with_traceback(error.__traceback__)
    other.__suppress_context__ = True
    return other


def line_of(error: BaseException) -> str:
    """
    The error in one line, such as ``ValueError: no such card``, cut to `MOST_TEXT` characters.

    Without the data that a pydantic model refused, and without passwords: see `without_secrets`. Never raises, even if
    the error's own text does.
    """
    text = one_line(without_secrets(_text_of(error)))
    if isinstance(error, SystemExit):
        text = _exit_in_words(error)
    return cut(f"{type(error).__name__}: {text}" if text else type(error).__name__, MOST_TEXT)


def _exit_in_words(error: SystemExit) -> str:
    code = error.code
    # The pool of processes exits with -(256 - number) for a signal.
    if type(code) is int and "billiard" in sys.modules and code + 256 in _ENDING_SIGNALS:
        return f"{signal.Signals(code + 256).name} told the process of the pool to end: exit code {code}"
    return f"the handler called sys.exit({'' if code is None else cut(repr(code), 100)})"


def trace_of(error: BaseException) -> str:
    """The traceback, without choreo's own frames at its beginning. Its middle is left out beyond `MOST_TRACE`."""
    trace = "".join(traceback.format_exception(type(error), error, _own_frames(error)))
    if len(trace) <= MOST_TRACE:
        return trace
    # The end names the error, and most often the line that raised it. Each line of an error's text may be enormous.
    half = MOST_TRACE // 2
    return f"{trace[:half]}\n... ({len(trace) - 2 * half:,} of {len(trace):,} characters left out) ...\n{trace[-half:]}"


def shown_trace(error: BaseException) -> str:
    """The traceback as a log shows it: as `trace_of`, in plain characters, and without secrets (`without_secrets`)."""
    return lines(without_secrets(trace_of(error).rstrip()))


def cut(text: str, most: int) -> str:
    """The text, or its first ``most`` characters and how many there are in all."""
    return text if len(text) <= most else f"{text[:most]}... (cut, {len(text):,} characters in all)"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as fault:
        return f"<its text raised {type(fault).__name__}>"


def _length(error: BaseException) -> int:
    """The characters of the texts that the traceback of an error shows."""
    return sum(len(_text_of(one)) + sum(map(len, _notes(one))) for one in _chain(error))


def _notes(error: BaseException) -> list[str]:
    return [str(note) for note in getattr(error, "__notes__", ())]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes and contexts, and the errors of a group."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
        waiting += getattr(one, "exceptions", ()) if isinstance(one, BaseExceptionGroup) else ()


def _own_frames(error: BaseException) -> TracebackType | None:
    frame = error.__traceback__
    while frame and frame.tb_next and frame.tb_frame.f_globals.get("__name__", "").startswith("choreo."):
        frame = frame.tb_next
    return frame
