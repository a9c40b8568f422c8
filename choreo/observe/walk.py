"""The walk: from the type of an event backwards to the first thing that did not happen."""

from collections.abc import Sequence

from choreo.declare.description import HandlerDescription, Undoing
from choreo.events.patterns import matches
from choreo.observe.cause import NOTHING, Cause, Weight, command, heaviest
from choreo.observe.elsewhere import Elsewhere
from choreo.observe.evidence import Evidence, KnownEvent
from choreo.observe.judge import Judge
from choreo.observe.likeness import alike
from choreo.observe.map import COMMAND_LINE, ITSELF, Announcer, MappedEvent, called, is_wild
from choreo.observe.open_end import Kind, OpenEnd
from choreo.observe.why_not import Finding, WhyNot
from choreo.observe.words import clock, counted
from choreo.printing import one_line
from choreo.store.runs import Result, Run

#: In which order causes are told of an event that several handlers announce.
_ALTERNATIVES = {Weight.DONE: 0, Weight.STUCK: 1, Weight.WAITING: 2, Weight.UNKNOWN: 3}


class Walk:
    """
    Walks the map backwards against the evidence. Make one for each question.

    ``elsewhere`` looks into the other namespaces. None: nobody does.
    """

    def __init__(self, evidence: Evidence, elsewhere: Elsewhere | None = None) -> None:
        self._evidence, self._elsewhere = evidence, elsewhere
        self._judge = Judge(evidence)
        self._asked: set[str] = set()
        #: Programs that announce outside of handlers, and how: each is told once.
        self._outsiders: set[tuple[str, str]] = set()
        self.findings: list[Finding] = []

    def of(self, kind: str, depth: int = 0) -> Cause:
        """Why no event of this type was announced."""
        self._asked.add(kind)
        delayed = [end for end in self._evidence.ends if end.is_announcement and end.event.type == kind]
        if delayed:
            self._find(depth, False, kind, f"it is delayed: {delayed[0].words(self._evidence.now)}")
            return self._judge.of(delayed[0])
        if announced := self._announced(kind):
            return self._was_announced(announced[-1], depth)
        event = self._evidence.map.event(kind)
        announcers = self._known_for(event) or self._seen(kind)
        self._find(depth, False, kind, _by(announcers))
        if not announcers:
            return self._nobody(kind)
        outside = [one for one in announcers if one.name not in self._evidence.descriptions]
        causes = [self._by(one, kind, depth) for one in announcers if one not in outside]
        causes += [self._outside(outside, kind, depth)] if outside else []
        cause = min(causes, key=lambda one: _ALTERNATIVES[one.weight])
        return (self._seen_elsewhere(kind) if cause.name in ("not announced", "unheard") else None) or cause

    def _known_for(self, event: MappedEvent | None) -> Sequence[Announcer]:
        """Who announces it; without the command line, where a handler does: a repair by hand is not the rule."""
        announcers = event.announced_by if event else ()
        if not any(one.name in self._evidence.descriptions for one in announcers):
            return announcers
        return [one for one in announcers if one.name != COMMAND_LINE]

    def _seen_elsewhere(self, kind: str) -> Cause | None:
        return None if self._elsewhere is None else self._elsewhere.seen(kind, self._evidence.what)

    def _seen(self, kind: str) -> Sequence[Announcer]:
        """Handlers that do not say what they announce, and were seen to announce this."""
        return [Announcer(handler, "seen") for handler in self._evidence.seen.get(kind, ())]

    def _announced(self, kind: str) -> list[KnownEvent]:
        found = [event for event in self._evidence.events.values() if event.type == kind]
        return sorted(found, key=lambda event: event.at or 0.0)

    def _was_announced(self, event: KnownEvent, depth: int) -> Cause:
        at = f" at {self._clock(event.at)}" if event.at else ""
        self._find(depth, True, event.type, f"announced{at}{f', by {event.source}' if event.source else ''}")
        text = f"nothing: {event.type} was announced{at}{f' by {event.source}' if event.source else ''}"
        return Cause("announced", text, (command("choreo", "trace", self._evidence.what),), Weight.DONE, event.at)

    # -- nobody ----------------------------------------------------------------------------------------------------

    def _nobody(self, kind: str) -> Cause:
        seen = {event.type: event for event in self._evidence.events.values()}
        types = {event.type for event in self._evidence.map.events if event.announced_by} | set(seen)
        unsaid = self._evidence.map.unsaid
        who = f". Handlers without a return annotation may: {', '.join(unsaid[:5])}" if unsaid else ""
        if like := alike(kind, types - {kind}):
            at = f" at {self._clock(seen[like].at)}" if like in seen and seen[like].at else ""
            about = f"{like} was announced{at}" if like in seen else f"{like} is announced"
            text = f"nobody announces {kind}. {about}: a misspelling of it?"
            return Cause("misspelling", text, _corrected(like))
        if (elsewhere := self._seen_elsewhere(kind)) is not None:
            return elsewhere
        return Cause("nobody announces it", f"nobody announces {kind}{who}", ("choreo map",))

    # -- outside of handlers ---------------------------------------------------------------------------------------

    def _outside(self, announcers: Sequence[Announcer], kind: str, depth: int) -> Cause:
        """Why no program announced it outside of handlers. These may."""
        for one in announcers:
            how = "when it has a dead letter" if one.how == "dead_letter" else "outside of handlers"
            if (one.service, how) not in self._outsiders:
                self._outsiders.add((one.service, how))
                self._find(depth + 1, None, called(one.service), f"announces it {how}")
        missing, event = (
            f"{kind} was not announced about {one_line(self._evidence.what)}",
            self._evidence.map.event(kind),
        )
        if like := alike(kind, {known.type for known in self._evidence.events.values()} - {kind}):
            return Cause("misspelling", f"{missing}, but {like}: a misspelling of it?", _corrected(like))
        if event is not None and event.lost and event.is_unheard:
            return self._unheard(event)
        names = self._likely(announcers, kind)
        lost = f"; {self._lost(event)}" if event is not None and event.lost else ""
        who = f" ({' or '.join(map(called, names))} announces it outside of handlers)"
        logs = [f"# look into the log of {name}" for name in names if name not in (COMMAND_LINE, ITSELF)]
        do = [*logs, *self._strays(kind), command("choreo", "map", kind)]
        return Cause("not announced", f"{missing}{who}{lost}{self._nothing()}", tuple(do), Weight.UNKNOWN)

    def _nothing(self) -> str:
        """Say that nothing at all is known of the subject; "" if something is."""
        if self._evidence.read_as:
            return ""
        return f"; nothing is known of this subject here{'' if self._elsewhere is None else ' or in another namespace'}"

    def _strays(self, kind: str) -> Sequence[str]:
        """Where an event about an unknown subject may have gone: nobody knows about which subjects those were."""
        strays = self._elsewhere.strays(kind) if self._elsewhere is not None and not self._evidence.read_as else ""
        return [f"# was it announced in {strays}? No handler hears it there, so no subject is kept"] if strays else []

    def _likely(self, announcers: Sequence[Announcer], kind: str) -> Sequence[str]:
        """The programs that were seen to announce it; all that say they do, if none was seen."""
        names = list(dict.fromkeys(one.service for one in announcers))
        presences = self._evidence.presences
        seen = [one.service for one in announcers if one.how == "seen"]
        seen += [name for name in names if name in presences and kind in presences[name].announced]
        return [name for name in names if name in seen] or names

    def _unheard(self, event: MappedEvent) -> Cause:
        """It was announced, and reached no queue: nobody knows about which subject."""
        elsewhere = self._elsewhere.hearers(event.type) if self._elsewhere is not None else {}
        there = ", ".join(f"{name!r} ({', '.join(services)})" for name, services in elsewhere.items())
        text = f"{self._lost(event)}{f'; it is heard in other namespaces: {there}' if there else ''}"
        look = [command("choreo", "--namespace", name, "map", event.type) for name in elsewhere]
        do = look or ["# no handler hears it:", command("choreo", "map", event.type)]
        return Cause("unheard", text, tuple(do), since=event.lost_at)

    def _lost(self, event: MappedEvent) -> str:
        at = f"at {self._clock(event.lost_at)}"
        when = f"{event.lost}x, the last {at}," if event.lost > 1 else f"1x {at}"
        return f"{event.type} was announced {when} and reached no queue"

    # -- handlers --------------------------------------------------------------------------------------------------

    def _by(self, announcer: Announcer, kind: str, depth: int) -> Cause:
        """Why this one has not announced an event of this type."""
        handler = self._evidence.descriptions[announcer.name]
        if handler.undoes is not None:
            return self._by_undo(handler, handler.undoes, kind, depth)
        if handler.join is not None:
            return self._by_join(handler, announcer.how, kind, depth)
        heard = [event for event in self._evidence.events.values() if _hears(handler, event.type)]
        if not heard:
            return self._before(handler, [one for one in handler.hears if not is_wild(one)], depth)
        causes = [self._at(handler, event, kind, depth) for event in heard]
        return min(causes, key=lambda one: _ALTERNATIVES[one.weight])

    def _before(self, handler: HandlerDescription, types: Sequence[str], depth: int) -> Cause:
        """None of the events has been announced that this handler needs: why?"""
        self._find(depth + 1, None, handler.name, f"needs {' or '.join(types) or 'any event'}")
        # Nobody may have handled the event, so that only its queue knows of it.
        unseen = self._judge.unseen(handler.name, None, None)
        if unseen.name != "unknown":
            return unseen
        causes = [self.of(kind, depth + 1) for kind in types if kind not in self._asked]
        if causes:
            return min(causes, key=lambda one: _ALTERNATIVES[one.weight])
        what = one_line(self._evidence.what)
        text = f"{handler.name} has had no event about {what}"
        return Cause("not announced", text, (command("choreo", "map", handler.name),), Weight.UNKNOWN)

    def _at(self, handler: HandlerDescription, event: KnownEvent, kind: str, depth: int) -> Cause:
        """What has become of an event at this handler."""
        # A join that waits is no reason: what it waits for is.
        ends = sorted(self._evidence.ends_of(handler.name, event.id), key=lambda end: end.kind is Kind.JOIN)
        # A delayed event is known before it is announced: no handler has it yet, and it is not lost.
        ends = self._evidence.announcements_of(event.id) or ends
        runs = self._evidence.runs_of(handler.name, event.id)
        if ends:
            cause, text = self._judge.of(ends[0]), ends[0].words(self._evidence.now)
        elif runs:
            cause = self._after(handler, runs[-1], kind)
            text = cause.text
        else:
            cause = self._judge.unseen(handler.name, self._evidence.map.event(event.type), event.at)
            text = cause.text
        told = text.removeprefix(f"{handler.name} ")
        self._find(depth + 1, None, handler.name, f"hears {event.type}{self._at_time(event)}: {told}")
        return cause

    def _after(self, handler: HandlerDescription, run: Run, kind: str) -> Cause:
        """Why a run has not led to an event of this type."""
        at, others = self._clock(run.at), ", ".join(dict.fromkeys(kind_ for kind_, _ in run.announced))
        match run.result:
            case Result.RETRY:
                text = (
                    f"attempt {run.attempt} of {handler.name} failed at {at} ({run.detail}), and the next is on its way"
                )
                return Cause("retry", text, NOTHING, Weight.WAITING, run.at)
            case Result.HELD:
                text = f"attempt {run.attempt} of {handler.name} failed at {at} ({run.detail}), held by its breaker"
                return Cause("held", text, NOTHING, Weight.WAITING, run.at)
            case Result.DEAD:
                text = (
                    f"{handler.name} failed for good at {at} ({run.detail}); its dead letter was replayed or discarded"
                )
                look = command("choreo", "trace", self._evidence.what)
                steps = "# was it discarded, or is its replay on its way?", look
                return Cause("dead letter gone", text, steps, since=run.at)
            case Result.CANCELLED:
                maker = self._maker(run.event)
                who = f", which {maker.handler} announced" if maker else ""
                text = f"{handler.name} was cancelled by {run.type} at {at}{who}"
                return Cause("cancelled", text, self._once_more(handler, run, kind, maker), since=run.at)
            case Result.CANCELLED_BY_HAND:
                text = f"{handler.name} was cancelled by hand at {at}: {run.detail or 'no reason was given'}"
                return Cause("cancelled", text, self._once_more(handler, run, kind), since=run.at)
            case _:
                how = {Result.TIMED_OUT: "timed out", Result.FIRED: "was fired by hand"}.get(run.result, "")
                what = f"{how} at {at}" if how else f"handled {run.type} at {at}"
                text = f"{handler.name} {what}, and announced {others or 'nothing'}"
                again = () if how else self._again(handler.name, run)
                do = f"# read the code of {handler.name}", *again, *self._by_hand(kind, run)
                # A handler that announced another event has decided otherwise, and has most likely forgotten nothing.
                weight = Weight.UNKNOWN if others and not how else Weight.STUCK
                return Cause("timed out" if how else "announced nothing", text, do, weight, run.at)

    def _again(self, handler: str, run: Run) -> Sequence[str]:
        """How to run a handler once more, after its code was mended."""
        return "# is it mended? Then let it handle the event again:", command("choreo", "rerun", handler, run.event)

    def _maker(self, event_id: str) -> Run | None:
        """The run that announced this event; None if it is not known."""
        return next((run for run in self._evidence.runs if any(event_id == one for _, one in run.announced)), None)

    def _once_more(self, join: HandlerDescription, run: Run, kind: str, maker: Run | None = None) -> Sequence[str]:
        """How a join that was cancelled gets its events after all. ``maker`` announced the event that cancelled it."""
        before = self._with_new_key(maker) if maker else ()
        parts = [event for event in self._evidence.events.values() if event.type in join.parts]
        if any(self._evidence.is_kept(event.id) for event in parts):
            again = command("choreo", "rerun", join.name, run.event)
            return "# is that right? If not, mend the cause, then:", *before, again
        return (
            "# no rerun: its events are kept with choreo_record_events = True only",
            *self._by_hand(kind, run, *before),
        )

    def _with_new_key(self, run: Run) -> Sequence[str]:
        """How a handler runs once more and announces other events."""
        data = () if self._evidence.is_kept(run.event) or run.parts else ("--data", "{}")
        return (command("choreo", "rerun", run.handler, run.event, "--new-key", *data),)

    def _by_hand(self, kind: str, run: Run, *before: str) -> Sequence[str]:
        """How to announce an event by hand in the story of this run, after these steps."""
        # It has the subject of its cause.
        publish = command("choreo", "publish", kind, "--caused-by", run.event, "--data", "{}")
        return "# is that right? If not, announce it by hand, with its fields in --data:", *before, publish

    # -- undoing ---------------------------------------------------------------------------------------------------

    def _by_undo(self, handler: HandlerDescription, undoing: Undoing, kind: str, depth: int) -> Cause:
        """Why nothing was undone: no effect, or no failure; or what has become of its undoing."""
        self._find(depth + 1, None, handler.name, f"undoes {' or '.join(undoing.effects)}, if a failure demands it")
        ends = [end for end in self._evidence.ends if end.handler == handler.name]
        if cause := heaviest([self._judge.of(end) for end in ends]):
            return cause
        effects = [event for one in undoing.effects for event in self._announced(one)]
        failures = [event for one in undoing.failures for event in self._announced(one)]
        runs = [run for run in self._evidence.runs if run.handler == handler.name and run.type in undoing.effects]
        if runs:
            return self._after(handler, runs[-1], kind)
        for types, found in ((undoing.effects, effects), (undoing.failures, failures)):
            for event in found:
                at = f" at {self._clock(event.at)}" if event.at else ""
                self._find(depth + 1, True, event.type, f"announced{at}")
            if not found:
                self._find(depth + 1, False, " or ".join(types), "was not announced")
        do = (command("choreo", "effects", self._evidence.what),)
        if not effects:
            text = f"there is nothing to undo: {' or '.join(undoing.effects)} was not announced, and may never be"
            return Cause("no effect", text, do, Weight.WAITING)
        if not failures:
            text = f"nothing demands it: {' or '.join(undoing.failures)} was not announced, and may never be"
            return Cause("not demanded", text, do, Weight.WAITING)
        return self._judge.unseen(handler.name, self._evidence.map.event(effects[-1].type), effects[-1].at)

    # -- joins -----------------------------------------------------------------------------------------------------

    def _by_join(self, handler: HandlerDescription, how: str, kind: str, depth: int) -> Cause:
        needs = f"needs {counted(len(handler.parts), 'event')}: {', '.join(handler.parts)}"
        self._find(depth + 1, None, handler.name, needs)
        ends = [end for end in self._evidence.ends if end.handler == handler.name]
        if others := [end for end in ends if end.kind is not Kind.JOIN]:
            cause = heaviest([self._judge.of(end) for end in others])
            assert cause is not None
            if cause.weight is Weight.STUCK:
                return cause
        pending = [end for end in ends if end.kind is Kind.JOIN]
        if pending:
            return self._pending(handler, pending[0], how, depth)
        runs = [run for run in self._evidence.runs if run.handler == handler.name]
        if runs:
            return self._after(handler, runs[-1], kind)
        if others:
            return self._judge.of(others[0])
        return self._never_begun(handler, depth)

    def _pending(self, handler: HandlerDescription, end: OpenEnd, how: str, depth: int) -> Cause:
        join = end.join
        assert join is not None
        cause = self._judge.of(end)
        if join.complete or cause.weight is Weight.STUCK:
            return cause
        if how == "on_timeout":
            text = f"{handler.name} announces it at its deadline, at {self._clock(end.due)}"
            return Cause("join waits", text, NOTHING, Weight.WAITING, cause.since)
        for part in join.arrived:
            at = self._clock(part.envelope.time.timestamp())
            self._find(depth + 1, True, part.envelope.type, f"{at}, from {one_line(part.envelope.source)}")
        missing = [part.type for part in join.missing if part.type not in self._asked]
        causes = [self._missing(handler, kind, depth) for kind in missing]
        return heaviest(causes) or cause

    def _never_begun(self, handler: HandlerDescription, depth: int) -> Cause:
        causes = [self._missing(handler, kind, depth) for kind in handler.parts if kind not in self._asked]
        text = f"{handler.name} has had none of its events"
        do = command("choreo", "map", handler.name)
        return heaviest(causes) or Cause("not announced", text, (do,), Weight.UNKNOWN)

    def _missing(self, handler: HandlerDescription, kind: str, depth: int) -> Cause:
        """Why a join has not got a part: it was not announced, or has not arrived."""
        announced = self._announced(kind)
        if not announced:
            return self.of(kind, depth + 1)
        self._asked.add(kind)
        return self._at(handler, announced[-1], kind, depth)

    # -- words -----------------------------------------------------------------------------------------------------

    def _find(self, depth: int, is_met: bool | None, what: str, text: str) -> None:
        self.findings.append(Finding(depth, is_met, what, text))

    def _clock(self, moment: float | None) -> str:
        return "?" if moment is None else clock(moment, self._evidence.now)

    def _at_time(self, event: KnownEvent) -> str:
        return f" of {self._clock(event.at)}" if event.at else ""


def answered(evidence: Evidence, kind: str, elsewhere: Elsewhere) -> WhyNot:
    """Why no event of this type was announced, by this evidence. ``elsewhere`` is that of `Walk`."""
    walk = Walk(evidence, elsewhere)
    cause = walk.of(kind)
    return WhyNot(kind, evidence.what, walk.findings, cause, evidence.notes)


def _by(announcers: Sequence[Announcer]) -> str:
    if not announcers:
        return "nobody announces it"
    return f"announced by {' or '.join(dict.fromkeys(map(_announcer, announcers)))}"


def _announcer(announcer: Announcer) -> str:
    how = {"on_timeout": " at its deadline", "dead_letter": " for dead letters"}.get(announcer.how, "")
    return f"{called(announcer.name)}{how}"


def _corrected(like: str) -> Sequence[str]:
    return command("choreo", "map", like), "# correct the type at its publisher, and announce the event with it"


def _hears(handler: HandlerDescription, kind: str) -> bool:
    return any(matches(pattern, kind) for pattern in handler.hears)
