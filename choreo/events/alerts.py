"""Alerts: the events that choreo itself announces. A handler of one is an ordinary handler, in any service."""

from datetime import datetime

from choreo.events.event import Event


class Alert(Event, abstract=True):
    """Base class of the alerts: see `choreo.events.naming.OWN_TYPES`. No alert is announced about an alert."""


class DeadLetterRecorded(Alert, type="dead_letter.recorded"):
    """
    An event became a dead letter. Announced once for each letter, in the step that records it.

    Its subject, story and metadata are those of the event that failed, which is its cause. Its source is the service
    whose handler failed. A letter without a readable event has no subject, and its alert begins a story whose id is
    that of the letter.
    """

    #: The id of the dead letter, for `choreo dead-letters show`.
    letter: str
    #: The name of the handler that failed.
    handler: str
    #: Why the event became a dead letter: a value of `choreo.Reason`, such as "exhausted".
    reason: str
    #: The error of the last attempt, as text.
    error: str
    #: The number of attempts that were made.
    attempts: int = 0
    #: The types of the events that failed: one, or those of the parts of a join. Empty if none could be read.
    events: list[str] = []
    #: The id of the group of all dead letters with this cause, for `choreo dead-letters`.
    group: str = ""
    #: The type of the event whose effect stands, since undoing it has failed: money was not returned. "" for others.
    undoes: str = ""


class HandlerPaused(Alert, type="handler.paused"):
    """
    A handler was paused, or slowed down: its events wait in its queue. Announced once for each pause.

    Its subject is the name of the handler, and its source the service of the handler.
    """

    #: The name of the handler.
    handler: str
    #: Why it was paused, as the operator or the breaker says.
    reason: str = ""
    #: Who paused it, such as "ann@desk"; "breaker" if its breaker did.
    by: str = ""
    #: When it goes on by itself, in UTC. None: when somebody resumes it, or its breaker does.
    until: datetime | None = None
    #: How many events a second it may handle. None: it handles none.
    rate: float | None = None


class HandlerResumed(Alert, type="handler.resumed"):
    """
    A paused handler goes on. Announced once for each pause that ended.

    Its subject is the name of the handler, and its source the service of the handler.
    """

    #: The name of the handler.
    handler: str
    #: Why it goes on, as the operator or the breaker says.
    reason: str = ""
    #: Who resumed it, such as "ann@desk"; "breaker" if its breaker did; "time" at the end of a pause that had one.
    by: str = ""


class StoryOverdue(Alert, type="story.overdue", fact=True):
    """
    A story that was declared with `Service.story` has not ended in time. Announced once for each story.

    Its subject is that of the event that began the story, its source is the service that declares the story, and its
    cause is the last event that came. The story may still end.
    """

    #: The name of the story, as it is declared.
    story: str
    #: The key of the story: the subject of its events, or the value of their key field.
    key: str
    #: When the story began: the time of the event that begins it.
    since: datetime
    #: The types of the events that have come, in the order of the declaration.
    arrived: list[str]
    #: The types of the steps that have not come. A story can end without them.
    missing: list[str]
    #: The types of the events that would end the story.
    ends: list[str]
