"""The members of a batch, as the context of its handler knows them."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from choreo.cached import cached_property
from choreo.errors import InvalidEventError, NotAnnouncedError
from choreo.events.envelope import Envelope
from choreo.events.metadata import TRACE, Value, inherited

if TYPE_CHECKING:
    from choreo.events.event import Event


class Members:
    """
    The events that a batch handler is called with, what each of them causes, and which of them have failed.

    ``keys`` are the events, each with its idempotency key: that of the event alone. ``last`` is the one among them that
    was announced last.
    """

    def __init__(self, keys: Mapping[Envelope, str], last: Envelope) -> None:
        self._last = last
        self._keys = {event.identity: (event, key) for event, key in keys.items()}
        self._caused: Counter[str] = Counter()
        #: Id of an announced event → identity of the member that it was announced because of.
        self.causes: dict[str, str] = {}
        #: Identity of a member → the error with which it has failed.
        self.failures: dict[str, Exception] = {}

    def envelope_of(self, event: "Event | Envelope", handler: str) -> Envelope:
        """The envelope of a member. Raises `InvalidEventError` for anything else."""
        known = self._keys.get(_identity_of(event))
        if known is None:
            raise InvalidEventError(
                f"{event!r:.200} is no event of this batch of {handler}. Name one that the handler was given, or its "
                f"envelope from context.events (which are in the order of the list)."
            )
        return known[0]

    def next_key(self, member: Envelope) -> str:
        """The key from which the id of the next event derives that this member causes: the same in any batch."""
        identity = member.identity
        number = self._caused[identity]
        self._caused[identity] += 1
        return f"{self._keys[identity][1]}/of/{number}"

    def meta_of(self, member: Envelope) -> dict[str, Value]:
        """The metadata that an event inherits which this member causes."""
        return inherited([member.extensions], member.extensions) if member.extensions else {}

    @cached_property
    def meta(self) -> dict[str, Value]:
        """The metadata that all members have in common; the trace is that of the last one."""
        handed = [self.meta_of(event) for event, _ in self._keys.values()]
        first = handed[0]
        common = {
            name: value
            for name, value in first.items()
            if name not in TRACE and all(name in other and other[name] == value for other in handed)
        }
        trace = self.meta_of(self._last)
        return common | {name: trace[name] for name in TRACE if name in trace}


def _identity_of(event: "Event | Envelope") -> str:
    if isinstance(event, Envelope):
        return event.identity
    try:
        return event.meta.identity
    except (AttributeError, NotAnnouncedError):  # a view, or an event that the handler has made
        return ""
