"""Events for people: finds one that was announced, where it is still kept, or what the record of runs tells of it."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from choreo.broker.queued import event_in
from choreo.declare.join import age
from choreo.delivery.undeclared import service_of
from choreo.durations import moment_of
from choreo.errors import EnvelopeError, RerunError
from choreo.events.envelope import Envelope
from choreo.events.ids import is_uuid
from choreo.events.message import Message
from choreo.operate.cabinet import read
from choreo.store import DELAYED, Store
from choreo.store.parts import read_address, unit_of, unpacked
from choreo.store.runs import Run

#: The most events that are counted on the way back to the first event of a story.
MOST_HOPS = 1000

_is_letter = re.compile(r"[0-9a-f]{10}").fullmatch


class Events:
    """
    Finds events. Its methods raise `StoreError` when the store is away.

    ``queue_of`` is a callback: it returns the name of a handler's queue. ``look`` is a callback: it looks for texts in
    queues, see `choreo.observe.broker_look`.
    """

    def __init__(
        self,
        store: Store,
        queue_of: Callable[[str], str],
        look: Callable[[Sequence[str], Sequence[str]], Any],
    ) -> None:
        self._store, self._queue_of, self._look = store, queue_of, look

    def cause(self, what: str) -> Envelope | None:
        """
        The event with this id, or that of the dead letter with this id; None if nothing is known of it.

        It may be without its data, and its hops are those that the record tells of.
        """
        if _is_letter(what):
            for name in self._store.handlers():
                if (text := self._store.letter(name, what)) is not None:
                    return max(read(name, text).envelopes, key=age, default=None)
        event, _ = self.whole(what)
        return read_address(event)[0] if event is not None else self._recorded(what)

    def _recorded(self, event_id: str) -> Envelope | None:
        """What the record tells of an event that was handled."""
        for name in self._store.handlers():
            for run in self._of_event(name, event_id):
                if run.event == event_id:
                    return self.told(run)
        return None

    def whole(self, event_id: str) -> tuple[Envelope | None, str]:
        """The event with this id, and where it was found; None if it is kept nowhere."""
        keepers = self._keepers()
        for name in keepers:
            if text := self._store.event(name, event_id):
                with suppress(EnvelopeError, ValueError):
                    return Envelope.from_wire(json.loads(text)), "the record"
        for event, place in self._elsewhere(event_id, keepers):
            if event.id == event_id:
                return event, place
        return None, ""

    def _keepers(self) -> list[str]:
        """The handlers that keep events with their data. A declared story keeps them without."""
        stories = {name for name, text in self._store.joins().items() if is_story(text)}
        return [name for name in self._store.handlers() if name not in stories]

    def _elsewhere(self, event_id: str, keepers: Sequence[str]) -> Iterator[tuple[Envelope, str]]:
        for name in keepers:
            for text in self._store.find_letters(name, [event_id])[0]:
                letter = read(name, text)
                yield from ((event, f"dead letter {letter.id}") for event in letter.envelopes)
        for name in (*keepers, DELAYED):
            for kept in self._store.find_scheduled(name, [event_id])[0]:
                if isinstance(kept.message, Message):
                    with suppress(Exception):  # a message of another program
                        yield event_in(kept.message.body, kept.message.headers), f"the schedule of {name}"
        for event in self._in_joins(event_id, keepers):
            yield event, "a join that waits"
        for queued in self._look([self._queue_of(name) for name in self._store.handlers()], [event_id]).messages:
            yield queued.event, "a queue"

    def _in_joins(self, event_id: str, keepers: Sequence[str]) -> Iterator[Envelope]:
        """The parts of the pending joins in which this event may be: those of its subject."""
        subjects = {
            run.subject for name in self._store.handlers() for run in self._of_event(name, event_id) if run.subject
        }
        for name in self._store.joins().keys() & keepers:
            for subject in subjects:
                if (state := self._store.look(name, unit_of(subject))) is not None:
                    yield from unpacked(state.parts)

    def _of_event(self, handler: str, event_id: str) -> Iterable[Run]:
        story = self._store.story_of(handler, event_id)
        return self._store.runs(handler, story) if story else ()

    def told(self, run: Run) -> Envelope:
        """The event as far as the record tells: without its data."""
        makers = self._makers(run)
        maker = makers.get(run.event)
        source = service_of(maker.handler) if maker else ""
        if not source and not is_uuid(run.event):
            raise RerunError(
                f"The record does not tell which service announced {run.type} {run.event}, which belongs to its "
                f"identity. Announce the event again: `choreo publish {run.type}`."
            )
        at = moment_of(max(run.at - run.took - run.waited, 0.0))
        told = Envelope(run.event, run.type, source or "unknown", run.subject, at, run.story)
        return replace(told, causation_id=maker.event if maker else None, hops=_hops(run.event, makers))

    def _makers(self, run: Run) -> dict[str, Run]:
        """Event of the story → the run that announced it."""
        runs = (other for name in self._store.handlers() for other in self._store.runs(name, run.story, run.subject))
        return {event_id: other for other in runs for _, event_id in other.announced}


def is_story(description: str) -> bool:
    """True if this description of a join, as JSON, is that of a declared story."""
    return "story" in json.loads(description)


def _hops(event_id: str, makers: dict[str, Run]) -> int:
    """How many events have led to this one, as far as these runs tell."""
    hops = 0
    while event_id in makers and hops < MOST_HOPS:
        event_id, hops = makers[event_id].event, hops + 1
    return hops
