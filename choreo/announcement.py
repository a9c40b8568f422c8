"""Delayed events: when they are sent, and how to call them off."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from choreo.events.envelope import Envelope
from choreo.events.ready import Ready


class Count(int, Ready):
    """A number of announced events. Like an `Envelope`, it can be awaited, which returns it at once."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Announcement(Ready):
    """
    A delayed event, as `choreo.Service.publish` returns it.

    `cancel` calls it off. Another process does the same with ``app.call_off(announcement.key)``.
    """

    #: The event with its metadata.
    envelope: Envelope
    #: The moment at which the event is due. Has a time zone.
    at: datetime
    #: The argument of `choreo.Service.call_off`: an opaque text, valid until the event is sent.
    key: str
    _call_off: Callable[[], bool] = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        """The id of the event."""
        return self.envelope.id

    def cancel(self) -> bool:
        """
        Call the event off.

        True promises that no handler receives it. False: it was sent, may be about to be sent, or was called off
        before. Raises `StoreError` when the store does not answer.
        """
        return self._call_off()
