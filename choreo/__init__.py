"""Event choreography on Celery: services announce what happened, other services react."""

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
    JoinError,
    MiddlewareError,
    NotAnnouncedError,
    PermanentFailure,
    PublishError,
    RetryLater,
    StoreError,
    UndeclaredEventWarning,
)
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.operate.joins import PendingJoin
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
    "JoinError",
    "MiddlewareError",
    "NotAnnouncedError",
    "PendingJoin",
    "PermanentFailure",
    "Proceed",
    "PublishError",
    "Reason",
    "Retry",
    "RetryLater",
    "Service",
    "Several",
    "StoreError",
    "Terms",
    "UndeclaredEventWarning",
]
