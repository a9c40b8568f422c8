"""Every exception of choreo, in one tree.

::

    ChoreoError
     ├── DeclarationError            a wrong declaration of a handler, join or service; raised at import
     │    └── EventNameError         the name of an event is a command
     ├── EnvelopeError               a message holds no event, or one that the handler cannot read
     │    └── UnansweredError        a delivery came back to its queue too often, and was never settled
     ├── NotAnnouncedError           an event has no metadata before it is announced
     ├── InvalidEventError           an event cannot be written as JSON, or a handler returned something else
     ├── PublishError                the broker did not confirm an event
     │    └── EventTooLargeError     an event is too large, or nested too deeply, to be sent
     ├── UnsendableError             the broker refused a message of the schedule too often
     ├── StoreError                  the store did not answer, or refused the call
     ├── DeadLetterError             a dead letter does not exist, or cannot be replayed
     ├── JoinError                   a pending join does not exist, or cannot be cancelled or fired
     ├── StoryError                  a pending story does not exist, or cannot be forgotten
     ├── JoinExpiredError            a join without on_timeout passed its deadline
     ├── MiddlewareError             middleware returned without calling proceed, or called it twice
     ├── HandlerEndedError           an event was announced in the context of a handler that has ended
     ├── HandlerCrashed              a handler raised SystemExit, MemoryError or the like
     ├── HandlerTimeoutError         a handler ran for longer than its time limit
     ├── PermanentFailure            raised by a handler: do not retry
     └── RetryLater                  raised by a handler: retry after this many seconds

    UndeclaredEventWarning           a handler announced an event that its annotation does not name
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from choreo.durations import LONGEST, is_wait


class ChoreoError(Exception):
    """The base class of every exception of choreo."""


class DeclarationError(ChoreoError):
    """A declaration is wrong. The message names the wrong value and the correct form."""


class EventNameError(DeclarationError):
    """
    The name of an event does not say in the past tense what happened.

    ``name`` is the refused name. ``suggestion`` is a name in the past tense, or None if none could be derived.
    """

    def __init__(self, name: str, suggestion: str | None) -> None:
        self.name = name
        self.suggestion = suggestion
        fault = (
            f"{name} reads like a command. An event is a fact in the past tense: did you mean {suggestion}?"
            if suggestion
            else f"{name} does not say in the past tense what has happened. Name it like OrderPlaced."
        )
        super().__init__(f"{fault} If {name} does state a fact, say so: class {name}(Event, fact=True).")


class EnvelopeError(ChoreoError, ValueError):
    """A message holds no event, or an event that the handler cannot read. The text of the error names the fault."""


class UnansweredError(EnvelopeError):
    """
    A delivery came back to its queue too often, and was never settled.

    ``envelope`` is the event; None if the message holds none that can be read.
    """

    def __init__(self, message: str, envelope: Any = None) -> None:
        super().__init__(message)
        self.envelope = envelope


class NotAnnouncedError(ChoreoError):
    """`Event.meta` was read before the event was announced. It has no id, time or source until then."""


class InvalidEventError(ChoreoError, TypeError, ValueError):
    """
    Something cannot be announced: a field of it cannot be written as JSON, or it is no event.

    In a handler it is a permanent failure: the same code would announce the same thing again.
    """


class PublishError(ChoreoError):
    """
    The broker did not confirm that it holds the event.

    ``confirmed`` and ``unconfirmed`` are the envelopes of the batch that the broker confirmed, and the others.
    To try again, pass ``unconfirmed`` to ``app.publisher.announce``. The events keep their ids, so a handler runs
    once for an event of which only the confirmation was lost. ``before`` is the number of events that
    `Service.publish_many` announced in earlier batches; otherwise it is 0. ``is_outage`` is False if the broker takes
    messages, and refused these.
    """

    def __init__(
        self,
        message: str,
        *,
        confirmed: Sequence[Any] = (),
        unconfirmed: Sequence[Any] = (),
        is_outage: bool = True,
    ) -> None:
        super().__init__(message)
        self.is_outage = is_outage
        self.confirmed = tuple(confirmed)
        self.unconfirmed = tuple(unconfirmed)
        self.before = 0


class EventTooLargeError(PublishError):
    """An event is too large, or nested too deeply, to be sent. Keep the data elsewhere, and announce where it is."""


class UnsendableError(ChoreoError):
    """The broker refused a message of the schedule too often. A dead letter has it now."""


class StoreError(ChoreoError):
    """
    The store did not answer, or refused the call.

    ``is_outage`` is False if the store is well, and refused this one call: repeating it may fail again for ever.
    """

    def __init__(self, *args: Any, is_outage: bool = True) -> None:
        super().__init__(*args)
        self.is_outage = is_outage


class DeadLetterError(ChoreoError, LookupError):
    """A dead letter does not exist, or cannot be replayed."""


class JoinError(ChoreoError, LookupError):
    """A pending join does not exist, or cannot be cancelled or fired by hand."""


class StoryError(ChoreoError, LookupError):
    """A pending story does not exist, or cannot be forgotten."""


class JoinExpiredError(ChoreoError, TimeoutError):
    """A join without ``on_timeout`` passed its deadline. The parts that had arrived become a dead letter."""


class MiddlewareError(ChoreoError):
    """Middleware returned without calling ``proceed``, or called it twice. It is a failure of the handler."""


class HandlerEndedError(ChoreoError):
    """An event was announced, or called off, in the context of a handler that has ended: see `Context.announce`."""


class HandlerCrashed(ChoreoError):
    """A handler raised an exception that would end its worker. choreo treats it like any other failure."""


class HandlerTimeoutError(ChoreoError, TimeoutError):
    """
    A handler ran for longer than its time limit, so its process was ended. It is a failed attempt.

    The handler cannot catch it. A soft time limit raises ``celery.exceptions.SoftTimeLimitExceeded`` in the handler.
    """


class PermanentFailure(ChoreoError):
    """Raise this in a handler when a retry cannot help. The event becomes a dead letter at once."""


class RetryLater(ChoreoError):
    """
    Raise this in a handler to be called again after ``seconds``, or after a timedelta. It uses up one attempt.

    Raises `ValueError` for a time that is negative, not finite, or longer than a hundred years.
    """

    def __init__(self, seconds: float | timedelta, reason: str = "") -> None:
        if not is_wait(seconds):
            raise ValueError(f"RetryLater({seconds!r}): a number of seconds, from 0 to {LONGEST.total_seconds():.0f}.")
        self.seconds = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        super().__init__(reason or f"asked to be called again in {self.seconds:g} s")


class UndeclaredEventWarning(UserWarning):
    """A handler announced an event that its return annotation does not name. The event leaves all the same."""
