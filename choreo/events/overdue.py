"""The event that choreo itself announces: a story is overdue."""

from datetime import datetime

from choreo.events.event import Event


class StoryOverdue(Event, type="story.overdue", fact=True):
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
