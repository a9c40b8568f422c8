"""An event that leaves later, and how to call it off."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from choreo.events.envelope import Envelope


@dataclass(frozen=True, slots=True)
class Announcement:
    """
    An event that leaves later.

    ``cancel()`` calls it off, and answers whether that was in time: True promises that nobody will hear of it.
    Another process does the same with ``app.call_off(announcement.key)``.
    """

    envelope: Envelope
    #: When it leaves.
    at: datetime
    #: What `choreo.Service.call_off` takes. A text without a meaning of its own.
    key: str
    _call_off: Callable[[], bool] = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        return self.envelope.id

    def cancel(self) -> bool:
        """Call it off. False when it has left, may be leaving right now, or was called off before."""
        return self._call_off()
