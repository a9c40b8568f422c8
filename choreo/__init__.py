"""Event choreography on Celery: services announce what happened, other services react."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from choreo.announcement import Announcement
    from choreo.declare.around import AsyncProceed, Proceed
    from choreo.declare.batch import Batch
    from choreo.declare.breaker import Breaker
    from choreo.declare.context import Context
    from choreo.declare.join import Several
    from choreo.declare.order import Series
    from choreo.declare.retry import Retry
    from choreo.delivery.dead_letter import DeadLetter, Reason
    from choreo.errors import (
        AwaitError,
        BlockedLoopWarning,
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
        PauseError,
        PermanentFailure,
        PublishError,
        RerunError,
        RetryLater,
        ScheduleError,
        StoreError,
        StoryError,
        TopologyError,
        UndeclaredEventWarning,
        UpcastError,
        VersionError,
        unconfirmed,
    )
    from choreo.events.alerts import DeadLetterRecorded, HandlerPaused, HandlerResumed, StoryOverdue
    from choreo.events.envelope import Envelope
    from choreo.events.event import Event
    from choreo.events.redaction import Redacted
    from choreo.events.upcast import Upcast
    from choreo.operate.joins import PendingJoin
    from choreo.operate.stories import PendingStory
    from choreo.service import Service
    from choreo.store.pauses import Pause
    from choreo.store.schedule import Backlog
    from choreo.store.terms import Terms

__version__ = "0.1.0"

__all__ = [
    "Announcement",
    "AsyncProceed",
    "AwaitError",
    "Backlog",
    "Batch",
    "BlockedLoopWarning",
    "Breaker",
    "ChoreoError",
    "Context",
    "DeadLetter",
    "DeadLetterError",
    "DeadLetterRecorded",
    "DeclarationError",
    "Envelope",
    "EnvelopeError",
    "Event",
    "EventTooLargeError",
    "HandlerEndedError",
    "HandlerPaused",
    "HandlerResumed",
    "HandlerTimeoutError",
    "InvalidEventError",
    "JoinError",
    "MiddlewareError",
    "NotAnnouncedError",
    "Pause",
    "PauseError",
    "PendingJoin",
    "PendingStory",
    "PermanentFailure",
    "Proceed",
    "PublishError",
    "Reason",
    "Redacted",
    "RerunError",
    "Retry",
    "RetryLater",
    "ScheduleError",
    "Series",
    "Service",
    "Several",
    "StoreError",
    "StoryError",
    "StoryOverdue",
    "Terms",
    "TopologyError",
    "UndeclaredEventWarning",
    "Upcast",
    "UpcastError",
    "VersionError",
    "unconfirmed",
]

#: The module of each public name. A name is imported when it is first read: `choreo.Service` needs no pydantic, and
#: `choreo.Event` no Celery.
_HOMES = {
    "Announcement": "choreo.announcement",
    "AsyncProceed": "choreo.declare.around",
    "AwaitError": "choreo.errors",
    "Backlog": "choreo.store.schedule",
    "Batch": "choreo.declare.batch",
    "BlockedLoopWarning": "choreo.errors",
    "Breaker": "choreo.declare.breaker",
    "ChoreoError": "choreo.errors",
    "Context": "choreo.declare.context",
    "DeadLetter": "choreo.delivery.dead_letter",
    "DeadLetterError": "choreo.errors",
    "DeadLetterRecorded": "choreo.events.alerts",
    "DeclarationError": "choreo.errors",
    "Envelope": "choreo.events.envelope",
    "EnvelopeError": "choreo.errors",
    "Event": "choreo.events.event",
    "EventTooLargeError": "choreo.errors",
    "HandlerEndedError": "choreo.errors",
    "HandlerPaused": "choreo.events.alerts",
    "HandlerResumed": "choreo.events.alerts",
    "HandlerTimeoutError": "choreo.errors",
    "InvalidEventError": "choreo.errors",
    "JoinError": "choreo.errors",
    "MiddlewareError": "choreo.errors",
    "NotAnnouncedError": "choreo.errors",
    "Pause": "choreo.store.pauses",
    "PauseError": "choreo.errors",
    "PendingJoin": "choreo.operate.joins",
    "PendingStory": "choreo.operate.stories",
    "PermanentFailure": "choreo.errors",
    "Proceed": "choreo.declare.around",
    "PublishError": "choreo.errors",
    "Reason": "choreo.delivery.dead_letter",
    "Redacted": "choreo.events.redaction",
    "Retry": "choreo.declare.retry",
    "RetryLater": "choreo.errors",
    "Series": "choreo.declare.order",
    "Service": "choreo.service",
    "Several": "choreo.declare.join",
    "RerunError": "choreo.errors",
    "ScheduleError": "choreo.errors",
    "StoreError": "choreo.errors",
    "StoryError": "choreo.errors",
    "TopologyError": "choreo.errors",
    "StoryOverdue": "choreo.events.alerts",
    "Terms": "choreo.store.terms",
    "UndeclaredEventWarning": "choreo.errors",
    "Upcast": "choreo.events.upcast",
    "UpcastError": "choreo.errors",
    "VersionError": "choreo.errors",
    "unconfirmed": "choreo.errors",
}

if not TYPE_CHECKING:  # for a type checker, such a function would make every misspelt name valid

    def __getattr__(name: str) -> Any:
        from choreo.lazy import attribute

        return globals().setdefault(name, attribute(__name__, name, _HOMES))

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
