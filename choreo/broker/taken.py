"""The messages of a consuming channel between its reading and their delivery, on every broker."""

from typing import Any, Protocol

from choreo.broker.incoming import EventText


class Taken(Protocol):
    """A message that the channel has, and has not delivered yet."""

    #: The name of its queue.
    queue: str
    #: The delivery tag.
    tag: Any
    #: True once the channel's hooks have begun to handle the message.
    begun: bool
    #: For the channel's hooks; the channel does not use it.
    note: Any

    @property
    def event(self) -> EventText | None:
        """The event in the message; None unless choreo wrote the message and it was not delivered before."""
