"""The effects of a story that can be undone: which of them stand, and which were undone. Reads only."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from choreo.declare.description import HandlerDescription
from choreo.observe.cause import NOTHING, command
from choreo.observe.evidence import Evidence, KnownEvent, known
from choreo.observe.judge import Judge
from choreo.observe.open_end import Kind
from choreo.operate.joins import Joins, PendingJoin
from choreo.store.runs import Result, Run

#: The most pending effects of a handler that are looked at, if they are not found by the subject.
MOST_PENDING = 500


_FINAL = (Result.CANCELLED, Result.CANCELLED_BY_HAND)


class State(StrEnum):
    """What has become of an effect."""

    #: Nothing demands that it is undone.
    STANDS = "stands"
    #: It stands for good: it was cancelled by an event of ``unless``, or by hand.
    FINAL = "final"
    #: A failure demands it, and its undoing is on its way.
    UNDOING = "being undone"
    UNDONE = "undone"
    #: Undoing it has failed for good.
    FAILED = "not undone"


@dataclass(frozen=True)
class Effect:
    """An effect that a handler can undo. Times are in seconds since 1970."""

    #: The event that announced it.
    type: str
    id: str
    #: The handler whose effect it is, or the service; "" if that is not known.
    made_by: str
    #: When it was announced; None if that is not known.
    at: float | None
    #: The handler that undoes it.
    undone_by: str
    state: State
    #: The types of the events that would demand it.
    failures: Sequence[str]
    #: The event that demands it, or has made it final: its type and id; "" if there is none.
    demanded_by: str = ""
    demanded_by_id: str = ""
    #: When that was announced; None if that is not known, or there is none.
    demanded_at: float | None = None
    #: When it was undone; None if it was not.
    undone_at: float | None = None
    #: The events that its undoing announced: type and id.
    announced: Sequence[tuple[str, str]] = ()
    #: Until when it waits for a failure; None if it does not.
    until: float | None = None
    #: The id of the dead letter of its undoing; "" if there is none.
    letter: str = ""
    #: Why it is not undone yet, or the last error; "" if there is none.
    why: str = ""
    #: The next steps: commands and remarks, as `Cause.do`.
    do: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Effects:
    """The effects about one subject or story."""

    what: str
    #: By the store's clock, in seconds since 1970.
    now: float
    #: Those that were announced first come first.
    effects: Sequence[Effect]
    #: What was not looked at, in words.
    notes: Sequence[str] = ()

    @property
    def is_any_failed(self) -> bool:
        """True if the undoing of one has failed for good."""
        return any(effect.state is State.FAILED for effect in self.effects)

    def to_json(self) -> str:
        """As one JSON object."""
        effects = [effect.to_dict() for effect in self.effects]
        return json.dumps({"what": self.what, "effects": effects, "notes": list(self.notes)}, default=str)


class Accountant:
    """Finds the effects in the evidence about a subject, and what became of each."""

    def __init__(self, evidence: Evidence, joins: Joins) -> None:
        self._evidence, self._joins, self._judge = evidence, joins, Judge(evidence)

    def effects(self) -> Effects:
        """All effects, of every handler that undoes one."""
        undos = [handler for handler in self._evidence.map.handlers if handler.undoes is not None]
        found = [effect for handler in undos for effect in self._of(handler)]
        found.sort(key=lambda one: (one.at is None, one.at or 0.0, one.type, one.undone_by))
        return Effects(self._evidence.what, self._evidence.now, found, self._evidence.notes)

    def _of(self, handler: HandlerDescription) -> Iterator[Effect]:
        waiting = {part.envelope.id: (join, known(part.envelope)) for join in self._pending(handler.name)
                   for part in join.arrived}  # fmt: skip
        events = {id_: event for id_, (_, event) in waiting.items()} | dict(self._evidence.events)
        for event in events.values():
            if handler.undoes is not None and event.type in handler.undoes.effects:
                join = waiting[event.id][0] if event.id in waiting else None
                yield self._effect(handler, event, join)

    def _pending(self, handler: str) -> list[PendingJoin]:
        """What waits for a failure: by the subjects, or if it is found by other keys, the first of all."""
        if self._joins.is_by_subject(handler):
            subjects = {self._evidence.what, *(run.subject for run in self._evidence.runs)}
            return [join for subject in subjects if subject for join in self._joins.find(subject, handler)]
        stories = set(self._evidence.stories)
        page = self._joins.page(handler, MOST_PENDING).joins
        return [join for join in page if any(part.envelope.correlation_id in stories for part in join.arrived)]

    def _effect(self, handler: HandlerDescription, event: KnownEvent, join: PendingJoin | None) -> Effect:
        runs = [run for run in self._evidence.runs_of(handler.name, event.id) if run.result is not Result.FIRED]
        own = [run for run in runs if run.event == event.id]
        demand = self._demand(handler, runs)
        ends = [end for end in self._evidence.ends_of(handler.name, event.id) if end.kind is not Kind.JOIN]
        told: dict[str, Any] = {}
        if own and own[-1].result is Result.DONE and not ends:
            told = {"state": State.UNDONE, "undone_at": own[-1].at, "announced": own[-1].announced}
        elif letter := next((end.letter for end in ends if end.letter is not None), None):
            cause = self._judge.of(next(end for end in ends if end.letter is letter))
            told = {"state": State.FAILED, "letter": letter.id, "why": letter.error, "do": cause.do}
        elif ends and (own or demand):
            cause = self._judge.of(ends[0])
            told = {"state": State.UNDOING, "why": cause.text, "do": cause.do}
        elif own and own[-1].letter:
            do = (command("choreo", "rerun", handler.name, event.id),)
            told = {"state": State.FAILED, "why": f"{own[-1].detail} (the dead letter is gone)", "do": do}
        elif final := self._final(handler, event, runs):
            told = {"state": State.FINAL, "why": "" if final.result is Result.CANCELLED else final.detail}
            demand = (final.type, final.event, final.at) if final.result is Result.CANCELLED else None
        elif own or demand:
            told = {"state": State.UNDOING, "why": own[-1].detail if own else "", "do": NOTHING}
        else:
            until = join.until.timestamp() if join is not None else None
            told = {"state": State.STANDS, "until": until}
        kind, event_id, at = demand or ("", "", None)
        return Effect(
            event.type, event.id, self._maker(event), event.at, handler.name,
            failures=handler.undoes.failures if handler.undoes else (),
            demanded_by=kind, demanded_by_id=event_id, demanded_at=at, **told,
        )  # fmt: skip

    def _demand(self, handler: HandlerDescription, runs: Sequence[Run]) -> tuple[str, str, float | None] | None:
        """The failure that demands it: type, id and time; None if none is known."""
        failures = handler.undoes.failures if handler.undoes else ()
        named = ((kind, event_id) for run in runs for kind, event_id in [*run.parts, (run.type, run.event)])
        found = next(((kind, event_id) for kind, event_id in named if kind in failures), None)
        if found is None:
            return None
        event = self._evidence.events.get(found[1])
        return *found, event.at if event else None

    def _final(self, handler: HandlerDescription, event: KnownEvent, runs: Sequence[Run]) -> Run | None:
        """The run by which it stands for good; None if there is none. It may have come before the effect."""
        maker = next((run for run in self._evidence.runs if any(event.id == one for _, one in run.announced)), None)
        subject = event.subject or (maker.subject if maker else "")
        before = (run for run in self._evidence.runs if run.handler == handler.name and run.subject == subject)
        return next((run for run in (*runs, *before) if run.result in _FINAL), None)

    def _maker(self, event: KnownEvent) -> str:
        makers = (run for run in self._evidence.runs if any(event.id == one for _, one in run.announced))
        maker = next(makers, None)
        return maker.handler if maker else event.source
