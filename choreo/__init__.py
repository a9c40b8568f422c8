"""Event choreography on Celery: services announce what happened, other services react."""

from choreo.announcement import Announcement
from choreo.context import Context
from choreo.dead_letter import DeadLetter, Reason
from choreo.envelope import Envelope
from choreo.errors import ChoreoError, PermanentFailure, PublishError, RetryLater, UndeclaredEventWarning
from choreo.event import Event
from choreo.join import Several
from choreo.joins import PendingJoin
from choreo.retry import Retry
from choreo.service import Service
from choreo.store import Terms

__all__ = [
    "Announcement",
    "ChoreoError",
    "Context",
    "DeadLetter",
    "Envelope",
    "Event",
    "PendingJoin",
    "PermanentFailure",
    "PublishError",
    "Reason",
    "Retry",
    "RetryLater",
    "Service",
    "Several",
    "Terms",
    "UndeclaredEventWarning",
]
