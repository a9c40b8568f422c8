"""A recorder: keeps the events that a web endpoint or a script announces, without a broker."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from choreo.errors import ChoreoError, PublishError
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.events.message import Message
from choreo.service import Service
from choreo.store.memory import MemoryStore
from choreo.store.memory_content import Content
from choreo.store.schedule import DELAYED, Scheduled
from choreo.store.terms import Terms
from choreo.testing.found import Found
from choreo.testing.publisher import MemoryPublisher
from choreo.testing.queues import event_in
from choreo.testing.runtime import StageRuntime, standing_in

E = TypeVar("E", bound=Event)


class Recorder:
    """The events that were announced while `recorder` was in place."""

    def __init__(self, fails: ChoreoError | None = None) -> None:
        #: The error that announcing raises, in place of recording the event. It can be set, and set to None, at any
        #: time.
        self.fails = fails
        self._events: list[Envelope] = []

    @property
    def events(self) -> list[Envelope]:
        """
        Every event that was announced, the oldest first.

        One that leaves later is among them until it is called off. Its time is when it leaves.
        """
        return list(self._events)

    def announced(self, event: type[E], subject: str | None = None) -> Found[E]:
        """
        The events of this type that were announced: all of them, or those about one subject.

        Raises `pydantic.ValidationError` if an event of this type does not fit the class, and `VersionError` if it has
        a version that the class cannot read.
        """
        found = [one for one in self.events if one.type == event.event_type and subject in (None, one.subject)]
        sought = event.event_type if subject is None else f"{event.event_type} about {subject}"
        return Found(map(event.read, found), sought, RecordedStory(self))

    def _take(self, messages: Sequence[Message]) -> list[bool]:
        """Record events. Raises `fails`."""
        events = [event_in(message) for message in messages]
        if isinstance(self.fails, PublishError) and not self.fails.confirmed:
            self.fails.unconfirmed = tuple(events)
        self._check()
        self._events += events
        return [True] * len(events)

    def _check(self) -> None:
        if self.fails is not None:
            raise self.fails

    def _forget(self, event_id: str) -> None:
        self._events = [event for event in self._events if event.id != event_id]


class RecordedStory:
    """Tells what a recorder has recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def summary(self) -> str:
        """The announced events in one line."""
        return f"announced: {', '.join(map(str, self._recorder.events)) or 'nothing'}"

    def whole(self) -> str:
        """The announced events, one a line."""
        events = list(map(str, self._recorder.events))
        return "\n  ".join(["Announced were:", *events]) if events else "Nothing was announced."


class RecordingStore(MemoryStore):
    """A store in memory that tells a recorder of the delayed events."""

    def __init__(self, terms: Terms, content: Content, recorder: Recorder) -> None:
        super().__init__(terms, content=content)
        self._recorder = recorder

    def schedule(self, name: str, scheduled: Scheduled) -> None:
        """Keep a message for later, and record its event."""
        self._recorder._take([scheduled.message])
        super().schedule(name, scheduled)

    def unschedule(self, name: str, schedule_id: str) -> bool:
        """Remove a message, and forget its event."""
        self._recorder._check()
        removed = super().unschedule(name, schedule_id)
        if removed:
            self._recorder._forget(schedule_id.removeprefix("event:"))
        return removed


@contextmanager
def recorder(*apps: Service, fails: ChoreoError | None = None) -> Iterator[Recorder]:
    """
    Record the events that these services announce in the block, in place of sending them.

        >>> with recorder(app) as recorded:
        ...     client.post("/orders", json={"customer": "alice"})
        >>> assert recorded.announced(OrderPlaced, subject="ORD-1")

    It needs neither broker nor store, and calls no handler. `choreo.Service.publish`, ``publish_many`` and
    ``publisher.announce`` are recorded, and events with a delay; `choreo.Service.call_off` takes one of these back.
    With ``fails``, a `PublishError` or a `StoreError`, announcing raises that error, as when the broker is away:
    ``unconfirmed`` of a `PublishError` are then the events of the call. `Recorder.fails` changes it in the block.
    The services are as before at the end of the block, whatever was raised in it.
    """
    recorded, content = Recorder(fails), Content()
    MemoryStore(content=content).tend(DELAYED, float("inf"))
    runtimes = {
        app: StageRuntime(app.runtime, RecordingStore(app.terms, content, recorded), MemoryPublisher(recorded._take))
        for app in apps
    }
    with standing_in(runtimes):
        yield recorded
