"""Messages that were taken and are not delivered yet, and which of them can be begun together."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import dropwhile, islice, takewhile

from choreo.broker.incoming import EventText, plain_event

#: So many messages that were taken together are begun together at most.
MOST_AHEAD = 16


@dataclass(slots=True, eq=False)
class Taken:
    """A message that was taken, and is not delivered yet."""

    queue: str
    #: "" if it need not be acked.
    tag: str
    text: bytes
    #: What was claimed for it, and until when that certainly holds: see `choreo.broker.keys.Lease`.
    claim: str = ""
    certain_until: float = 0.0
    #: Whether it was begun together with others; or cannot be, so that nothing behind it is until it is delivered.
    begun: bool = False
    alone: bool = False
    _read: bool = False
    _event: EventText | None = None

    @property
    def event(self) -> EventText | None:
        """The event in it, if that is as choreo sends it and comes for the first time."""
        if not self._read:
            self._event, self._read = plain_event(self.text), True
        return self._event

    @property
    def known_event(self) -> EventText | None:
        """The same, if somebody has looked."""
        return self._event


def to_begin(first: Taken, following: deque[Taken]) -> list[Taken]:
    """
    What can be begun together before ``first`` is delivered; nothing as long as half of what was begun is left.

    These are neighbours in one queue.
    """
    if first.begun and (not following or following[min(len(following), MOST_AHEAD // 2) - 1].begun):
        return []
    line = [first, *takewhile(lambda taken: taken.queue == first.queue, islice(following, MOST_AHEAD - 1))]
    together = list(dropwhile(lambda taken: taken.begun, line))
    return [] if together and together[0].alone else together


def untouched(back: Iterable[Taken]) -> list[str]:
    """The tags of those with which nothing was begun: they come again as if for the first time."""
    return [taken.tag for taken in back if taken.tag and not taken.begun]
