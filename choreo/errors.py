"""Everything that choreo raises, in one tree.

::

    ChoreoError
     ├── DeclarationError            a handler, join or service is declared wrongly; raised at import
     │    └── EventNameError         an event is named like a command
     ├── EnvelopeError               what arrived is not a readable event
     │    └── UnansweredError        the broker gave up delivering it
     ├── NotAnnouncedError           metadata was asked of an event that nobody has announced yet
     ├── PublishError                the broker did not take an event
     │    └── EventTooLargeError     the event is larger than a broker should carry
     ├── StoreError                  the store could not be reached, or refused
     ├── DeadLetterError             a dead letter cannot be found, or cannot be replayed
     ├── JoinError                   a pending join cannot be found, or not be cancelled or fired
     ├── JoinExpiredError            a join was not complete in time, and has no on_timeout
     ├── MiddlewareError             middleware returned without calling proceed, or called it twice
     ├── HandlerCrashed              a handler raised SystemExit, MemoryError or the like
     ├── PermanentFailure            raised by a handler: do not retry
     └── RetryLater                  raised by a handler: retry after this many seconds

    UndeclaredEventWarning           a handler announced what its annotation does not say
"""

import math
from collections.abc import Sequence
from typing import Any


class ChoreoError(Exception):
    """The base of every error of choreo."""


class DeclarationError(ChoreoError):
    """A declaration that cannot work. The message names the line's values and the way out."""


class EventNameError(DeclarationError):
    """
    An event's name does not say what happened; often it says what to do.

    ``suggestion`` is the name that was meant, or None where there is no telling.
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
    """What arrived is not a readable event."""


class UnansweredError(EnvelopeError):
    """RabbitMQ delivered an event up to its delivery limit, and no worker ever answered."""

    def __init__(self, message: str, envelope: Any) -> None:
        super().__init__(message)
        self.envelope = envelope


class NotAnnouncedError(ChoreoError):
    """An event has no id, time or source before it is announced."""


class PublishError(ChoreoError):
    """
    The broker did not confirm that it holds the event.

    ``confirmed`` and ``unconfirmed`` are the envelopes, of those sent together, that it does and does not hold.
    To try again, hand the unconfirmed ones to ``app.publisher.announce``: they keep their ids, so that nobody counts
    an event twice whose confirmation only was lost. Where `Service.publish_many` raised, ``before`` is the number of
    events that it had announced with earlier batches.
    """

    def __init__(
        self,
        message: str,
        *,
        confirmed: Sequence[Any] = (),
        unconfirmed: Sequence[Any] = (),
    ) -> None:
        super().__init__(message)
        self.confirmed = tuple(confirmed)
        self.unconfirmed = tuple(unconfirmed)
        self.before = 0


class EventTooLargeError(PublishError):
    """An event is larger, or nested deeper, than everybody could carry. Keep the blob elsewhere and say where it is."""


class StoreError(ChoreoError):
    """The store could not be reached, or refused the call."""


class DeadLetterError(ChoreoError, LookupError):
    """A dead letter cannot be found, or cannot be replayed."""


class JoinError(ChoreoError, LookupError):
    """A pending join cannot be found, or cannot be cancelled or fired by hand."""


class JoinExpiredError(ChoreoError, TimeoutError):
    """A join was not complete in time, and nothing says what then. What had arrived becomes a dead letter."""


class MiddlewareError(ChoreoError):
    """Middleware returned without calling ``proceed``, or called it twice. It is a failure of the handler."""


class HandlerCrashed(ChoreoError):
    """A handler raised what would have ended its worker. It is a failure like any other."""


class PermanentFailure(ChoreoError):
    """Raise this in a handler when trying again cannot help: the event becomes a dead letter at once."""


class RetryLater(ChoreoError):
    """Raise this in a handler to be called again after ``seconds``. It uses up one attempt."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"RetryLater({seconds!r}): a number of seconds, from 0.")
        self.seconds = seconds
        super().__init__(reason or f"asked to be called again in {seconds:g} s")


class UndeclaredEventWarning(UserWarning):
    """A handler announced an event that its return annotation does not name, so the map would not show it."""
