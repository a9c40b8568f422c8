"""Every exception of choreo, in one tree.

::

    ChoreoError
     ├── DeclarationError            a wrong declaration of a handler, join or service; raised at import
     │    └── EventNameError         the name of an event is a command
     ├── EnvelopeError               a message holds no event, or one that the handler cannot read
     │    ├── VersionError           an event has a version that the handler cannot read
     │    ├── UpcastError            an upcaster could not make the next version of an event's data
     │    ├── UnansweredError        a delivery came back to its queue too often, and was never settled
     │    └── UntrustedError         an event is not signed by a publisher that may announce it, or was changed
     ├── NotAnnouncedError           an event has no metadata before it is announced
     ├── InvalidEventError           an event cannot be written as JSON, or a handler returned something else
     │    └── AwaitError             `app.publish` was awaited: `app.apublish` can be
     ├── PublishError                the broker did not confirm an event
     │    └── EventTooLargeError     an event is too large, or nested too deeply, to be sent
     ├── UnsendableError             the broker refused a message of the schedule too often
     ├── StoreError                  the store did not answer, or refused the call
     ├── DeadLetterError             a dead letter does not exist, or cannot be replayed
     ├── JoinError                   a pending join does not exist, or cannot be cancelled or fired
     ├── StoryError                  a pending story does not exist, or cannot be forgotten
     ├── PauseError                  a handler cannot be paused or resumed: there is none, or a value is wrong
     ├── RerunError                  an event cannot be handled again
     ├── ScheduleError               an entry of the schedule does not exist, or cannot be changed
     ├── TopologyError               a queue cannot be made, or a handler cannot be retired
     ├── JoinExpiredError            a join without on_timeout passed its deadline
     ├── LoopError                   too many events have caused each other, one after the other
     ├── MiddlewareError             middleware returned without calling proceed, or called it twice
     ├── HandlerEndedError           an event was announced in the context of a handler that has ended
     ├── HandlerCrashed              a handler raised SystemExit, MemoryError or the like
     ├── HandlerTimeoutError         a handler ran for longer than its time limit
     ├── PermanentFailure            raised by a handler: do not retry
     └── RetryLater                  raised by a handler: retry after this many seconds

    UndeclaredEventWarning           a handler announced an event that its annotation does not name
    BlockedLoopWarning               `app.publish` waited for the broker in the thread of an event loop
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from choreo.durations import LONGEST, is_wait


class ChoreoError(Exception):
    """The base class of every exception of choreo."""


class DeclarationError(ChoreoError):
    """
    A declaration is wrong. The message names the wrong value and the correct form.

    ``place`` is the line of the user's code that led to it, such as "shop/events.py:12"; "" if it is not known.
    """

    def __init__(self, message: str, place: str | None = None) -> None:
        # Here, since few programs need it.
        from choreo.places import calling_place

        super().__init__(message)
        self.place = calling_place() if place is None else place

    def __str__(self) -> str:
        """The message, with the place."""
        return f"{super().__str__()} ({self.place})" if self.place else super().__str__()


class EventNameError(DeclarationError):
    """
    The name of an event does not say in the past tense what happened.

    ``name`` is the refused name. ``suggestion`` is a name in the past tense, or None if none could be derived.
    ``given_type`` is the type of the suggestion, if the name is a fact that ends in "Event".
    """

    def __init__(self, name: str, suggestion: str | None, given_type: str = "") -> None:
        self.name = name
        self.suggestion = suggestion
        if given_type:
            super().__init__(
                f"{name}: leave out the word Event, which would be part of the type. Name it {suggestion}, or keep the "
                f'name and give the type: class {name}(Event, type="{given_type}").'
            )
            return
        fault = (
            f"{name} reads like a command. An event is a fact in the past tense: did you mean {suggestion}?"
            if suggestion
            else f"{name} does not say in the past tense what has happened. Name it like OrderPlaced."
        )
        super().__init__(f"{fault} If {name} does state a fact, say so: class {name}(Event, fact=True).")


class EnvelopeError(ChoreoError, ValueError):
    """A message holds no event, or an event that the handler cannot read. The text of the error names the fault."""


class VersionError(EnvelopeError):
    """
    An event has a version that the handler cannot read: a newer one, or one that no upcaster takes.

    In a handler it is a permanent failure: the event becomes a dead letter of reason ``version``.
    """


class UpcastError(EnvelopeError):
    """An upcaster could not make the next version of an event's data. Its cause is what the upcaster raised."""


class UntrustedError(EnvelopeError):
    """
    An event is not signed by a publisher that may announce it, or somebody has changed it: see docs/security.md.

    It is not handled: it becomes a dead letter of reason ``untrusted``.
    """


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


class AwaitError(InvalidEventError):
    """
    ``await app.publish(...)``, or ``app.publish_many``: they cannot be awaited, and nothing was announced.

    Write ``await app.apublish(...)``, or ``app.apublish_many``.
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


class RerunError(ChoreoError):
    """An event cannot be handled again: it is not known, it was not handled yet, or its data is not kept."""


class ScheduleError(ChoreoError):
    """An entry of the schedule does not exist, has just left, or cannot be hurried or dropped."""


class LoopError(ChoreoError):
    """
    An event was to be announced to which more than ``choreo_max_hops`` events have led, one after the other.

    In a handler it is a permanent failure: the event in hand becomes a dead letter of reason ``loop``.
    """


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


class PauseError(ChoreoError, LookupError, ValueError):
    """A handler cannot be paused or resumed: it does not exist, or a value cannot work."""


class TopologyError(ChoreoError):
    """A queue or a binding cannot be made, or a handler cannot be retired: the message says what keeps it."""


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


class BlockedLoopWarning(UserWarning):
    """
    `Service.publish` is about to wait for the broker in a thread that runs an event loop.

    The event leaves all the same. Meanwhile no other coroutine of this loop runs: for milliseconds, or for seconds if
    the broker does not answer. Write ``await app.apublish(...)``.
    """


def unconfirmed(error: BaseException) -> "tuple[Any, ...]":
    """
    The envelopes of the events that may have been announced, although this error was raised; else ().

    ``error`` is a `PublishError`, or what ended an await of `Service.apublish`: `asyncio.CancelledError`, or the
    `TimeoutError` of ``asyncio.timeout``. ``await app.publisher.aannounce(unconfirmed(error))`` announces them again
    with the ids that they have, so a handler runs once for each.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if found := getattr(cause, "unconfirmed", ()):
            return tuple(found)
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return ()


def note_unconfirmed(error: BaseException, envelopes: Sequence[Any]) -> None:
    """Note in the error of a cancelled await which events may have been announced, for `unconfirmed`."""
    error.unconfirmed = tuple(envelopes)  # type: ignore[attr-defined]
    error.add_note(f"May have been announced: {', '.join(f'{one} {one.id}' for one in envelopes[:3])}")
