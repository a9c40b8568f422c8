"""Errors of handlers: how they are shown, kept in dead letters, and raised again without harm to the worker."""

import traceback
from types import TracebackType

from choreo.errors import HandlerCrashed
from choreo.printing import one_line

#: Errors that Celery and gevent raise to stop a worker or a greenlet. By name, since this room imports neither.
_STOPS = frozenset({"WorkerShutdown", "WorkerTerminate", "GreenletExit"})


class RetryScheduledError(Exception):
    """
    An attempt has failed, and its retry is in the schedule.

    ``reason`` is a line for people; ``error`` is the handler's; ``seconds`` is the wait until the next attempt.
    """

    def __init__(self, reason: str, error: Exception, seconds: float) -> None:
        super().__init__(reason)
        self.reason, self.error, self.seconds = reason, error, seconds


def is_stop(error: BaseException) -> bool:
    """True if the worker is being stopped; False if the handler failed."""
    return not _STOPS.isdisjoint(cls.__name__ for cls in type(error).__mro__)


def harmless(error: BaseException) -> Exception:
    """
    The error itself if it is an ordinary `Exception`, else a `HandlerCrashed` whose cause it is.

    Raised in a Celery task, SystemExit, MemoryError and the like would end the worker, or block its slot for ever.
    """
    if isinstance(error, Exception) and not isinstance(error, (MemoryError, RecursionError)):
        return error
    crashed = HandlerCrashed(line_of(error))
    crashed.__cause__ = error
    return crashed


def line_of(error: BaseException) -> str:
    """The error in one line, such as ``ValueError: no such card``. Never raises, even if the error's own text does."""
    try:
        text = str(error)
    except Exception as fault:
        text = f"<its text raised {type(fault).__name__}>"
    return f"{type(error).__name__}: {one_line(text)}" if text else type(error).__name__


def trace_of(error: BaseException) -> str:
    """The traceback, without choreo's own frames at its beginning."""
    return "".join(traceback.format_exception(type(error), error, _own_frames(error)))


def _own_frames(error: BaseException) -> TracebackType | None:
    frame = error.__traceback__
    while frame and frame.tb_next and frame.tb_frame.f_globals.get("__name__", "").startswith("choreo."):
        frame = frame.tb_next
    return frame
