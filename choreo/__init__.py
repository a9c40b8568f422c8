"""Event choreography on Celery: services announce what happened, other services react."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from choreo.announcement import Announcement
    from choreo.declare.around import Proceed
    from choreo.declare.context import Context
    from choreo.declare.join import Several
    from choreo.declare.retry import Retry
    from choreo.delivery.dead_letter import DeadLetter, Reason
    from choreo.errors import (
        ChoreoError,
        DeadLetterError,
        DeclarationError,
        EnvelopeError,
        EventTooLargeError,
        HandlerEndedError,
        HandlerTimeoutError,
        InvalidEventError,
        JoinError,
        MiddlewareError,
        NotAnnouncedError,
        PermanentFailure,
        PublishError,
        RetryLater,
        StoreError,
        StoryError,
        UndeclaredEventWarning,
    )
    from choreo.events.envelope import Envelope
    from choreo.events.event import Event
    from choreo.events.overdue import StoryOverdue
    from choreo.operate.joins import PendingJoin
    from choreo.operate.stories import PendingStory
    from choreo.service import Service
    from choreo.store.schedule import Backlog
    from choreo.store.terms import Terms

__version__ = "0.1.0"

__all__ = [
    "Announcement",
    "Backlog",
    "ChoreoError",
    "Context",
    "DeadLetter",
    "DeadLetterError",
    "DeclarationError",
    "Envelope",
    "EnvelopeError",
    "Event",
    "EventTooLargeError",
    "HandlerEndedError",
    "HandlerTimeoutError",
    "InvalidEventError",
    "JoinError",
    "MiddlewareError",
    "NotAnnouncedError",
    "PendingJoin",
    "PendingStory",
    "PermanentFailure",
    "Proceed",
    "PublishError",
    "Reason",
    "Retry",
    "RetryLater",
    "Service",
    "Several",
    "StoreError",
    "StoryError",
    "StoryOverdue",
    "Terms",
    "UndeclaredEventWarning",
]

#: The module of each public name. A name is imported when it is first read: `choreo.Service` needs no pydantic, and
#: `choreo.Event` no Celery.
_HOMES = {
    "Announcement": "choreo.announcement",
    "Backlog": "choreo.store.schedule",
    "ChoreoError": "choreo.errors",
    "Context": "choreo.declare.context",
    "DeadLetter": "choreo.delivery.dead_letter",
    "DeadLetterError": "choreo.errors",
    "DeclarationError": "choreo.errors",
    "Envelope": "choreo.events.envelope",
    "EnvelopeError": "choreo.errors",
    "Event": "choreo.events.event",
    "EventTooLargeError": "choreo.errors",
    "HandlerEndedError": "choreo.errors",
    "HandlerTimeoutError": "choreo.errors",
    "InvalidEventError": "choreo.errors",
    "JoinError": "choreo.errors",
    "MiddlewareError": "choreo.errors",
    "NotAnnouncedError": "choreo.errors",
    "PendingJoin": "choreo.operate.joins",
    "PendingStory": "choreo.operate.stories",
    "PermanentFailure": "choreo.errors",
    "Proceed": "choreo.declare.around",
    "PublishError": "choreo.errors",
    "Reason": "choreo.delivery.dead_letter",
    "Retry": "choreo.declare.retry",
    "RetryLater": "choreo.errors",
    "Service": "choreo.service",
    "Several": "choreo.declare.join",
    "StoreError": "choreo.errors",
    "StoryError": "choreo.errors",
    "StoryOverdue": "choreo.events.overdue",
    "Terms": "choreo.store.terms",
    "UndeclaredEventWarning": "choreo.errors",
}

if not TYPE_CHECKING:  # for a type checker, such a function would make every misspelt name valid

    def __getattr__(name: str) -> Any:
        from choreo.lazy import attribute

        return globals().setdefault(name, attribute(__name__, name, _HOMES))

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
