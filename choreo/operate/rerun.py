"""
Reruns: lets a handler handle an event again that it has handled.

The unit is forgotten, and runs once more in the same story. What a handler does outside happens again.

*Keys and ids.* By default the run has the same idempotency key as before. A payment provider that was called with it
recognises the call, and its events have the same ids: a listener that has handled the event at the same place among the
announced ones ignores it, whatever its type is now. So only what was missing is added. With a new key everything
happens again: the provider charges again, and all listeners handle the new events.

*The event.* The record of runs names the events, and keeps their data only with ``choreo_record_events``. Without it,
the event is looked for where it may still be whole: in other dead letters, schedules, queues and pending joins.
Otherwise its fields must be given.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from choreo.declare.description import ServiceDescription
from choreo.declare.versions import as_described
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.undeclared import is_handler, service_of
from choreo.durations import moment_of
from choreo.errors import EnvelopeError, RerunError
from choreo.events.envelope import NEW_KEY, Envelope
from choreo.events.message import Message
from choreo.events.patterns import matches
from choreo.events.redaction import restored
from choreo.operate.cabinet import read
from choreo.operate.events import Events, is_story
from choreo.operate.parts import parts_of, told_by_code
from choreo.operate.repairs import Repairs
from choreo.printing import one_line
from choreo.store import Scheduled, Store
from choreo.store.claims import Repeated
from choreo.store.parts import addressed, demanded, is_demanded, read_address, read_demand, unit_of
from choreo.store.runs import Result, Run

#: Of a handler, runs of so many seconds are looked through, and so many of them, for a subject that leads to no story.
RECENT, MOST_RUNS = 7 * 86_400.0, 10_000
#: The most events that an error names.
MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that is to be made again."""

    #: The name of the handler.
    handler: str
    #: The unit that is forgotten.
    unit: str
    #: The event, or all parts of a join.
    events: tuple[Envelope, ...]
    #: The key of a join; None for another handler.
    key: str | None = None
    #: The last run, as it is recorded; None if it is not.
    run: Run | None = None
    #: Where the event was found, for people.
    found_in: str = ""
    #: The types of the parts that a join waits for again.
    missing: tuple[str, ...] = ()
    #: The last runs of the joins that have ended without their parts since then, and stay ended.
    ended: tuple[Run, ...] = ()

    @property
    def event(self) -> Envelope:
        """The event; of a join, its first part."""
        return self.events[0]

    @property
    def announced(self) -> Sequence[tuple[str, str]]:
        """Type and id of each event that the last run has announced."""
        return self.run.announced if self.run else ()

    @property
    def before(self) -> str:
        """What the last run did, for people."""
        if self.run is None:
            return "No run of it is recorded"
        told = ", ".join(kind for kind, _ in self.announced) or "nothing"
        return (
            f"It was handled at {moment_of(self.run.at):%m-%d %H:%M:%S} UTC ({self.run.result}), and announced {told}"
        )

    def text(self, *, new_key: bool = False) -> str:
        """What the run means, for people: before it is made."""
        what = " + ".join(event.type for event in self.events)
        about = f"{self.handler} handles {what} {self.event.subject}".rstrip()
        if new_key:
            means = (
                "With a new idempotency key everything happens again: what it does outside (a payment provider charges "
                "again), and its events have new ids, so every listener handles them, also those that have handled the "
                "ones before"
            )
        else:
            means = (
                f"What it does outside happens again, unless that recognises the idempotency key, which stays "
                f"{self.handler}/{self.unit}. Its events have the same ids: a listener that has handled the event in "
                f"the same place ignores it"
            )
        waits = f" It waits again for {', '.join(self.missing)}." if self.missing else ""
        stays = f" {self.warning}" if self.ended else ""
        return one_line(
            f"{about} again, in the same story (data from {self.found_in}).{waits} {self.before}. {means}.{stays}"
        )

    @property
    def warning(self) -> str:
        """Which joins this run does not reach, for people; "" if there is none."""
        return " ".join(
            f"The join {run.handler} stays {_ENDED.get(run.result, run.result)}, and ignores the events of this run. "
            f"Let it run again afterwards: `choreo rerun {run.handler} {one_line(run.event)}`."
            for run in self.ended
        )


class Reruns:
    """
    Lets handlers of every service that uses one store handle an event again. Its methods raise `StoreError`.

    ``queue_of`` is a callback: it returns the name of a handler's queue.
    """

    def __init__(self, store: Store, queue_of: Callable[[str], str], events: Events, repairs: Repairs) -> None:
        self._store, self._queue_of, self._events, self._repairs = store, queue_of, events, repairs

    # -- planning ----------------------------------------------------------------------------------------------------

    def plan(self, handler: str, what: str, data: Mapping[str, Any] | None = None) -> Plan:
        """
        Find the event that this handler is to handle again. Nothing is changed.

        ``what`` is the id of the event, or the subject of the only one that the handler handled; of a join, of any
        part. ``data`` are the fields of the event if they are kept nowhere. Raises `RerunError`, with the way out.
        """
        description = self._checked(handler)
        if "undo" in description:
            plan = self._undo(handler, self._run_of_undo(handler, what, description))
            self._check_letters(plan)
            return plan
        if description and data is not None:
            raise RerunError(f"{handler} is a join, and has several events: their data cannot be given. Leave it out.")
        run = self._run(handler, what)
        plan = self._join(handler, what, run, description) if description else self._plain(handler, what, run, data)
        self._check_letters(plan)
        return replace(plan, ended=self._ended(plan))

    def _ended(self, plan: Plan) -> tuple[Run, ...]:
        """
        The joins of this story that have ended without their parts since the last run of this handler.

        One that was cancelled by an event counts if that run has announced the event.
        """
        if plan.run is None:
            return ()
        announced, ended = {event_id for _, event_id in plan.announced}, []
        for name, text in self._store.joins().items():
            runs = [] if is_story(text) or name == plan.handler else self._store.runs(name, plan.run.story)
            last = max(runs, key=lambda run: run.at, default=None)
            if last is None or last.result not in _ENDED or last.at < plan.run.at:
                continue
            is_by_it = last.result is not Result.CANCELLED or last.event in announced
            waits_again = self._store.look(name, unit_of(last.subject)) is not None
            ended += [last] if is_by_it and not waits_again else []
        return tuple(ended)

    def _checked(self, handler: str) -> Mapping[str, Any]:
        """The description of the handler if it is a join. Raises `RerunError` for a handler that cannot run again."""
        if handler not in self._store.handlers() or not is_handler(handler):
            raise RerunError(f"No handler is named {handler!r}. Write SERVICE.HANDLER: `choreo map` shows all of them.")
        listening = self._store.listening(service_of(handler))
        if listening is not None and self._queue_of(handler) not in listening.queues:
            raise RerunError(f"No worker of {service_of(handler)} declares {handler} any more.")
        text = self._store.joins().get(handler)
        description = json.loads(text) if text else {}
        if "story" in description:
            raise RerunError(f"{handler} follows a declared story, and handles nothing that could run again.")
        return {} if description.get("former") else description

    def _run(self, handler: str, what: str) -> Run | None:
        """The last recorded run of the event that is meant. Raises `RerunError` if it could be several events."""
        found = list(self._runs(handler, what))
        exact = [run for run in found if run.event == what or any(what == part for _, part in run.parts)]
        about = [run for run in exact or found if run.result not in (Result.RETRY,)]
        # A join is told apart by its parts: any of them may have completed it.
        events = {tuple(sorted(part for _, part in run.parts)) or run.event: run for run in about}
        if len(events) > 1:
            named = [f"{run.type} {run.event} ({moment_of(run.at):%H:%M:%S})" for run in events.values()][-MOST_NAMED:]
            raise RerunError(
                f"{handler} has handled {len(events)} events about {what!r}. Name one by its id: {', '.join(named)}."
            )
        return next(iter(events.values()), None)

    def _runs(self, handler: str, what: str) -> Iterator[Run]:
        """The recorded runs of a handler for a subject, an event or a story."""
        found = list(self._by_story(handler, what))
        # No handler may have recorded the first event of the story, by which a subject leads to it.
        recent = () if found else self._store.recent(handler, RECENT, MOST_RUNS)
        yield from found or (run for run in recent if run.subject == what)

    def _by_story(self, handler: str, what: str) -> Iterator[Run]:
        stories = dict.fromkeys(story for name in self._store.handlers() for story in self._store.stories(name, what))
        told = self._store.story_of(handler, what)
        for story in dict.fromkeys([*stories, *([told] if told else []), what]):
            for run in self._store.runs(handler, story, what if story in stories else None):
                if what in (run.subject, run.event, run.story) or any(what == part for _, part in run.parts):
                    yield run

    def _plain(self, handler: str, what: str, run: Run | None, data: Mapping[str, Any] | None) -> Plan:
        event_id = run.event if run else what
        event, found_in = self._events.whole(event_id)
        known = event or (self._events.told(run) if data is not None and run is not None else None)
        if data is not None and known is not None:
            version = known.version if event is not None else self._newest(handler, known.type)
            event, found_in = replace(known, data=_given(data, known), version=version), "the command line"
        if event is None:
            raise RerunError(self._unknown(handler, what, run))
        event, _ = read_address(event)
        if run is None:
            self._check_heard(handler, event)
        return Plan(handler, event.identity, (event,), run=run, found_in=found_in)

    def _newest(self, handler: str, kind: str) -> int:
        """The newest version of this type that the handler reads: that of data which a person writes for it."""
        for text in self._store.presence(service_of(handler)).current:
            with suppress(ValueError):
                told = ServiceDescription.from_json(text).handler(handler)
                if told is not None and kind in told.versions:
                    return told.versions[kind][-1]
        return 1

    def _run_of_undo(self, handler: str, what: str, description: Mapping[str, Any]) -> Run:
        """The last run that undid an effect. Raises `RerunError` if there is none, or several are meant."""
        effects = description["undo"]["effects"]
        found = {run.event: run for run in self._runs(handler, what) if run.type in effects and run.parts}
        exact = {event: run for event, run in found.items() if what in (event, *(part for _, part in run.parts))}
        runs = list((exact or found).values())
        if len(runs) == 1:
            return runs[0]
        if runs:
            named = ", ".join(f"{run.type} {run.event}" for run in runs[-MOST_NAMED:])
            raise RerunError(f"{handler} has undone {len(runs)} effects about {what!r}. Name one by its id: {named}.")
        raise RerunError(
            f"The record knows no run of {handler} that undid something about {what!r}. `choreo effects "
            f"{one_line(what)}` tells what stands. Without a failure: `choreo joins fire KEY --handler {handler}`."
        )

    def _undo(self, handler: str, run: Run) -> Plan:
        """The effect of this run is undone again, with the failure that demanded it."""
        events = [(kind, event_id, *self._events.whole(event_id)) for kind, event_id in run.parts]
        lost = [f"{kind} {event_id}" for kind, event_id, event, _ in events if event is None]
        if lost:
            raise RerunError(f"The data of {', '.join(lost)} is kept nowhere any more. {_by_hand(run)}")
        known = [_plain(event) for _, _, event, _ in events if event is not None]
        effect = next(event for event in known if event.id == run.event)
        failure = next((event for event in known if event is not effect), None)
        return Plan(handler, effect.identity, (demanded(effect, failure),), run=run, found_in=events[0][3])

    def _check_heard(self, handler: str, event: Envelope) -> None:
        listening = self._store.listening(service_of(handler))
        bound = (
            []
            if listening is None
            else [kind for queue, kind in listening.bindings if queue == self._queue_of(handler)]
        )
        if bound and not any(matches(pattern, event.type) for pattern in bound):
            raise RerunError(f"{handler} does not listen to {event.type}. It listens to {', '.join(sorted(bound))}.")

    def _join(self, handler: str, what: str, run: Run | None, description: Mapping[str, Any]) -> Plan:
        if run is None:
            raise RerunError(
                f"The record knows no run of {handler} for {what!r}. A join that waits needs no other run: `choreo "
                f"joins show {one_line(what)}`."
            )
        if run.result is not Result.DONE:
            return self._ended_join(handler, what, run, description)
        parts = [self._events.whole(part)[0] for _, part in run.parts]
        events = tuple(read_address(part)[0] for part in parts if part is not None)
        if len(events) < len(run.parts):
            lost = ", ".join(
                f"{kind} {part}" for (kind, part), event in zip(run.parts, parts, strict=True) if event is None
            )
            raise RerunError(f"The data of these parts of {handler} is kept nowhere any more: {lost}. {_by_hand(run)}")
        key = _key_among(events, description)
        return Plan(handler, unit_of(key), events, key, run, "the record")

    def _ended_join(self, handler: str, what: str, run: Run, description: Mapping[str, Any]) -> Plan:
        """A join that was cancelled, or ended without all its parts: it has those again that are known, and waits."""
        known = {kind: self._of_type(kind, run, description) for kind in description["parts"]}
        keys = {_key_of(event, description) for events in known.values() for event in events}
        key = what if what in keys or len(keys) != 1 else next(iter(keys))
        found = {kind: [one for one in its if _key_of(one, description) == key] for kind, its in known.items()}
        events = tuple(event for its in found.values() for event in its)
        if not events:
            raise RerunError(
                f"{handler} did not run with all its parts for {what!r} ({run.result}), and the data of none of them "
                f"is kept any more. {_by_hand(run)}"
            )
        missing = tuple(kind for kind, its in found.items() if not its)
        return Plan(handler, unit_of(key), events, key, run, "the record", missing)

    def _of_type(self, kind: str, run: Run, description: Mapping[str, Any]) -> list[Envelope]:
        """The events of this type in the run's story that are kept: the newest, or all if the join takes several."""
        ids: dict[str, float] = {}
        for name in self._store.handlers():
            for other in self._store.runs(name, run.story, run.subject):
                told = [(other.type, other.event), *other.announced, *other.parts]
                ids.update({event_id: other.at for type_, event_id in told if type_ == kind})
        newest = sorted(ids, key=ids.__getitem__, reverse=True)
        whole = (event for event, _ in map(self._events.whole, newest) if event is not None)
        events = [read_address(event)[0] for event in whole]
        return events if kind in description["several"] else events[:1]

    def _check_letters(self, plan: Plan) -> None:
        found, _ = self._store.find_letters(plan.handler, [event.id for event in plan.events])
        for letter in (read(plan.handler, text) for text in found):
            if letter.unit == plan.unit:
                raise RerunError(_of_letter(letter))

    def _unknown(self, handler: str, what: str, run: Run | None) -> str:
        if run is None:
            return (
                f"The record knows no run of {handler} for {what!r}, and no event with this id is kept anywhere. "
                f"Announce the event again: `choreo publish TYPE --subject ...`."
            )
        return (
            f"The data of {run.type} {run.event} is kept nowhere any more. Give its fields: --data '{{...}}' (in "
            f"Python: data=...). With choreo_record_events = True later runs keep theirs."
        )

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, plan: Plan, *, new_key: bool = False, reason: str = "", who: str = "") -> Plan:
        """
        Forget that the unit is finished, and schedule the event for its handler. Returns the plan.

        It has all its attempts again. ``new_key`` is told above. Raises `RerunError`, and changes nothing, if the unit
        is not finished: it runs, waits for its next attempt, or for parts of a join.
        """
        again = uuid4().hex[:10]
        events = [_marked(event, again, new_key=new_key) for event in plan.events]
        description = {} if plan.key is None else json.loads(self._store.joins()[plan.handler])
        sent = told_by_code(events, description) or events[0]
        sent = sent if plan.key is None else addressed(sent, plan.key)
        message = Message.carrying(sent, exchange="", routing_key=self._queue_of(plan.handler))
        parts = {} if plan.key is None else parts_of(events, description)
        result = self._store.repeat(plan.handler, plan.unit, parts, Scheduled(f"rerun:{again}", message))
        if result is not Repeated.OK:
            raise RerunError(_REFUSED[result].format(handler=plan.handler, event=one_line(plan.event.subject)))
        words = f"{plan.handler} {plan.event.subject or plan.event.id}" + (", with a new key" if new_key else "")
        self._repairs.note("rerun", words, reason=reason, who=who)
        return plan


#: How a join ended without its parts → the same, for people.
_ENDED = {
    Result.CANCELLED: "cancelled",
    Result.CANCELLED_BY_HAND: "cancelled",
    Result.TIMED_OUT: "timed out",
    Result.FIRED: "fired",
}
_REFUSED = {
    Repeated.BEGUN: "{handler} has not finished with it: it runs, or waits for an attempt: `choreo trace {event}`.",
    Repeated.WAITING: "{handler} waits for parts of it: `choreo joins show {event}`.",
}


def _of_letter(letter: DeadLetter) -> str:
    """Why an event that is a dead letter is not run again, and the way out."""
    it = f"It is dead letter {letter.id} of {letter.handler}"
    if letter.reason is Reason.VERSION:
        return f"{it}, which could not read its version. Deploy one that can: `choreo dead-letters replay {letter.id}`."
    if letter.reason is not Reason.UNREADABLE:
        return f"{it}: `choreo dead-letters replay {letter.id}`."
    return (
        f"{it}, which could not read it. Can the version that runs now? `choreo dead-letters replay {letter.id}`. Are "
        f"its fields wrong? `choreo dead-letters discard {letter.id}`, and then `choreo rerun` with the right ones: "
        f"--data '{{...}}'."
    )


def _by_hand(run: Run) -> str:
    """The way out if the data of a join's parts is lost."""
    return (
        f"Announce by hand what it would have announced, in the same story: `choreo publish TYPE --subject "
        f"{one_line(run.subject)} --caused-by {run.event} --data ...`. With choreo_record_events = True later runs "
        f"keep their events."
    )


def _marked(event: Envelope, again: str, *, new_key: bool) -> Envelope:
    """The event as it is sent again: with a mark by which its run has a task id of its own, and counted from 0."""
    extensions = {name: value for name, value in event.extensions.items() if name != NEW_KEY}
    extensions |= {NEW_KEY: again} if new_key else {}
    return replace(event.replayed(f"rerun-{again}"), extensions=extensions)


def _given(data: Mapping[str, Any], event: Envelope) -> dict[str, Any]:
    """The fields that a person gives for an event, with its own values where they were shown as redacted."""
    try:
        return restored(data, event)
    except ValueError as fault:
        raise RerunError(f"{event.type}: {fault}.") from fault


def _plain(event: Envelope) -> Envelope:
    """The event as it was announced, without what a message to one handler adds."""
    event, _ = read_address(event)
    return read_demand(event)[0] if is_demanded(event) else event


def _key_among(events: Sequence[Envelope], description: Mapping[str, Any]) -> str:
    """The key that these parts of one join have in common. Raises `RerunError` if none of them tells it here."""
    for event in events:
        with suppress(RerunError):
            return _key_of(event, description)
    return _key_of(events[0], description)


def _key_of(event: Envelope, description: Mapping[str, Any]) -> str:
    """The key of the join that this event belongs to. Raises `RerunError` if only code of the service can read it."""
    field = description.get("keys", {}).get(event.type)
    if field is None:
        return event.subject
    try:
        return str(as_described(event, description).data.get(field, ""))
    except EnvelopeError as error:
        raise RerunError(f"The key of {event} cannot be read here: {error}") from error
