"""Gathers the evidence about a subject, an event, a dead letter or a story."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from choreo.broker.queued import Queued, event_in
from choreo.cached import cached_property
from choreo.delivery.signals import SIGNALS
from choreo.delivery.undeclared import is_handler
from choreo.durations import moment_of
from choreo.events.envelope import Envelope
from choreo.events.ids import identity
from choreo.events.message import Message
from choreo.observe.broker_look import BrokerLook
from choreo.observe.evidence import Evidence, KnownEvent
from choreo.observe.handlers import EACH, WINDOW, busy_rate
from choreo.observe.map import Map
from choreo.observe.open_end import Kind, OpenEnd
from choreo.operate.cabinet import Cabinet, read
from choreo.operate.events import Events
from choreo.operate.joins import Joins, PendingJoin
from choreo.operate.which import Group, Which
from choreo.printing import one_line
from choreo.store.parts import read_address, unit_of
from choreo.store.port import Store
from choreo.store.presence import Presence, Program
from choreo.store.runs import SHELVES, Result, Run
from choreo.store.schedule import DELAYED, Kept
from choreo.store.turns import key_in

#: The most stories of a subject that are looked at, the newest ones: of those in the record, and of those that wait.
MOST_STORIES = 20
#: The most pending joins of a handler that are looked at, if its joins are not found by the subject.
MOST_JOINS = 500
#: Behind so many messages in a queue it is worth to say how long they take.
FAR = 10
#: How many handlers that do not say what they announce are looked at, and how many seconds of their record.
MOST_UNSAID, DAY = 20, 86_400.0
_LETTER_ID = re.compile("[0-9a-f]{10}")


class Gathering:
    """
    Looks for everything about one thing. Its calls raise `StoreError`.

    ``queue_of`` is a callback: it returns the name of a handler's queue. ``look`` is a callback: it looks for texts in
    queues. ``draw`` is a callback: it returns the map.
    """

    def __init__(
        self,
        store: Store,
        queue_of: Callable[[str], str],
        look: Callable[[Sequence[str], Sequence[str]], BrokerLook],
        draw: Callable[[], Map],
    ) -> None:
        self._store, self._queue_of, self._look, self._draw = store, queue_of, look, draw
        self._joins, self._events = Joins(store, queue_of), Events(store, queue_of, look)
        #: The keys of pending joins that were found by one of their parts.
        self._keys: set[str] = set()

    def about(self, what: str) -> Evidence:
        """All that is known about a subject, an event, a dead letter or a story."""
        registered = self._store.handlers()
        names = [name for name in registered if is_handler(name)]
        letter_events = self._letter(registered, what)
        stories = _once([event.correlation_id for event in letter_events]) or self._recorded(names, what)
        searched = {what, *stories}
        sweep = self._sweep(registered, [what, *stories])
        # Between the two looks an event may have left its queue for the record.
        stories = stories or self._recorded(names, what)
        read_as, told = ("dead letter", stories) if letter_events else self._reading(names, what, stories, sweep)
        told, older = _newest(told, sweep.ends)
        if set(told) - searched:
            sweep = self._sweep(registered, [what, *told])
        runs = [run for story in told for run in self._runs(names, story, what, sweep.ends)]
        newest = sorted(told, key=lambda story: -_last(story, runs, sweep.ends))
        chosen, attempts = set(told), _attempts_in(runs)
        ends = [end for end in sweep.ends if end.stories & chosen and not _is_over(end, attempts)]
        ends += self._other_joins(what, runs, ends, set(told))
        buried, gone = self._letters_of(runs, ends)
        ends += buried
        drawn = self._draw()
        evidence = Evidence(
            what,
            read_as,
            self._store.now(),
            newest,
            sorted(runs, key=lambda run: run.at),
            ends,
            drawn,
            {service: self._presence(service) for service in self._store.services()},
            sweep.broker,
            self._queue_of,
            self._rates(ends),
            self._seen(drawn.unsaid),
            bool(self._store.recording),
            [*older, *sweep.notes, *sweep.broker.notes, *self._sampled(newest)],
            gone=gone,
            is_kept=lambda event_id: self._events.whole(event_id)[0] is not None,
            pauses=self._store.pauses(registered),
            slots=self._slots(ends, drawn),
            groups=self._groups(ends),
        )
        return evidence if sweep.broker.is_open else replace(evidence, ends=[*ends, *self._begun(evidence)])

    def _letters_of(self, runs: Iterable[Run], ends: Iterable[OpenEnd]) -> tuple[list[OpenEnd], set[str]]:
        """
        The dead letters of these runs that are no ends yet: those that are there, and the ids of those that are gone.

        One that was recorded between the look at the letters and that at the runs is there. The others were replayed or
        discarded since.
        """
        there = {end.letter.id for end in ends if end.letter is not None}
        made = dict.fromkeys((run.handler, run.letter) for run in runs if run.letter and run.letter not in there)
        found = {(handler, one): self._store.letter(handler, one) for handler, one in made}
        buried = [_buried(handler, text) for (handler, _), text in found.items() if text is not None]
        return buried, {one for (_, one), text in found.items() if text is None}

    def _slots(self, ends: Sequence[OpenEnd], drawn: Map) -> dict[str, int]:
        names = {end.handler for end in ends if end.kind is Kind.TAKEN}
        limited = [one.name for one in drawn.handlers if one.concurrency and one.name in names]
        return {name: len(self._store.taken_slots(name)) for name in limited}

    def _begun(self, evidence: Evidence) -> Iterator[OpenEnd]:
        """What workers have in hand, by the store: for a broker that does not tell which messages they took."""
        for event in evidence.events.values():
            mapped = evidence.map.event(event.type)
            for hearer in mapped.heard_by if mapped else ():
                if hearer.how != "on" or evidence.ends_of(hearer.name, event.id):
                    continue
                unit = self._store.unit(hearer.name, identity(event.source, event.id))
                if unit is not None and unit.holder:
                    yield OpenEnd(Kind.TAKEN, hearer.name, _envelope(event), unit.attempts + 1, unit=unit)

    def _presence(self, service: str) -> Presence:
        """Who is there of a service; also its workers that run an older choreo, which only declare their queues."""
        presence = self._store.presence(service)
        listening = None if presence.workers else self._store.listening(service)
        older = [
            Program(service, service, queues=tuple(sorted(one))) for one in (listening.workers if listening else ())
        ]
        return replace(presence, workers=older) if older else presence

    def _rates(self, ends: Iterable[OpenEnd]) -> dict[str, float]:
        """How fast the handlers are for which events wait behind others: since the first of these events waits."""
        slow: dict[str, float] = {}
        for end in ends:
            # When a retry or a replay came into the queue is not known.
            is_first = end.attempt == 1 and not end.event.replay
            if is_first and end.message is not None and end.message.position > FAR:
                began = end.event.time.timestamp()
                slow[end.handler] = min(slow.get(end.handler, began), began)
        sample, now = self._store.recording.sample or 1.0, self._store.now()
        recent = {handler: self._store.recent(handler, WINDOW, EACH * SHELVES) for handler in slow}
        return {handler: busy_rate(recent[handler], now, slow[handler], sample) or 0.0 for handler in slow}

    def _groups(self, ends: Iterable[OpenEnd]) -> dict[str, Group]:
        """The groups of the dead letters that are there, by digest."""
        handlers = _once([end.handler for end in ends if end.letter is not None])
        found = Cabinet(self._store, completes=False).groups(Which(tuple(handlers))) if handlers else []
        return {group.digest: group for group in found}

    def _seen(self, unsaid: Sequence[str]) -> dict[str, list[str]]:
        """Which types handlers have announced lately that do not say what they announce."""
        found: dict[str, dict[str, None]] = defaultdict(dict)
        for handler in unsaid[:MOST_UNSAID] if self._store.recording else ():
            for run in self._store.recent(handler, DAY, EACH * SHELVES):
                for kind, _ in run.announced:
                    found[kind][handler] = None
        return {kind: list(handlers) for kind, handlers in found.items()}

    def _sampled(self, stories: Iterable[str]) -> list[str]:
        recording = self._store.recording
        if not recording or all(map(recording.wants, stories)):
            return []
        return [f"only a sample of all stories is recorded (choreo_record_sample = {recording.sample:g}), not this one"]

    # -- how the name is read ------------------------------------------------------------------------------------

    def _letter(self, registered: Sequence[str], what: str) -> Sequence[Envelope]:
        """The events of the dead letter with this id."""
        if _LETTER_ID.fullmatch(what):
            for name in registered:
                text = self._store.letter(name, what)
                if text is not None:
                    return read(name, text).envelopes
        return ()

    def _recorded(self, names: Sequence[str], what: str) -> list[str]:
        found = [story for name in names for story in self._store.stories(name, what)[-MOST_STORIES:]]
        return _once(found)[-MOST_STORIES:]

    def _reading(
        self, names: Sequence[str], what: str, stories: Sequence[str], sweep: "Sweep"
    ) -> tuple[str, list[str]]:
        """How the name is read, and the stories that it stands for."""
        events = [event for end in sweep.ends for event in end.events]
        live = [event.correlation_id for event in events if event.subject == what and event.correlation_id]
        if stories or live:
            return "subject", _once([*stories, *live])
        if any(event.correlation_id == what for event in events) or any(
            self._store.runs(name, what, what) for name in names
        ):
            return "story", [what]
        if own := [event.correlation_id for event in events if event.id == what]:
            return "event", _once(own)
        told = next(filter(None, (self._store.story_of(name, what) for name in names)), None) or self._joined(what)
        return ("event", [told]) if told else ("", [])

    def _joined(self, what: str) -> str:
        """The story of an event that only a pending join has; "" if there is none."""
        for handler in self._join_names:
            for join in self._joins.page(handler, MOST_JOINS).joins:
                for part in join.arrived:
                    if part.envelope.id == what:
                        self._keys.add(join.key)
                        return part.envelope.correlation_id
        return ""

    def _runs(self, names: Sequence[str], story: str, what: str, ends: Iterable[OpenEnd]) -> list[Run]:
        """The runs of a story. The subject of its first event spares a look at the whole record."""
        root = next((event for end in ends for event in end.events if event.id == story), None)
        runs = [run for name in names for run in self._store.runs(name, story, what if root is None else root.subject)]
        if root is not None or any(run.is_first for run in runs):
            return runs
        return [run for name in names for run in self._store.runs(name, story)]

    # -- the live state ------------------------------------------------------------------------------------------

    def _sweep(self, registered: Sequence[str], texts: Sequence[str]) -> "Sweep":
        sweep = Sweep(self._look([self._queue_of(name) for name in registered], texts))
        by_queue = {self._queue_of(name): name for name in registered}
        for message in sweep.broker.messages:
            sweep.ends.append(self._on_broker(by_queue[message.queue], message))
        for name in (*registered, DELAYED):
            entries, is_whole = self._store.find_scheduled(name, texts)
            ends = ((entry, _scheduled(name, entry)) for entry in entries)
            sweep.ends += [self._in_series(entry.id, end) for entry, end in ends if end is not None]
            sweep.note(is_whole, f"not all of the schedule of {name} was looked through")
        for name in registered:
            letters, is_whole = self._store.find_letters(name, texts)
            sweep.ends += [_buried(name, text) for text in letters]
            sweep.note(is_whole, f"not all dead letters of {name} were looked through")
        sweep.ends += [self._waiting(join) for join in self._joins.find(texts[0]) if join.arrived]
        return sweep

    def _in_series(self, schedule_id: str, end: OpenEnd) -> OpenEnd:
        """The same end; for an event that waits for its turn, with the one that is handled first."""
        if end.kind is not Kind.TURN:
            return end
        key = key_in(schedule_id)
        first = next(iter(self._store.series(end.handler, key)), end.event.identity)
        is_known = first != end.event.identity
        return replace(end, behind=f"event {one_line(first)} of {one_line(key)}" if is_known else "")

    def _on_broker(self, handler: str, message: Queued) -> OpenEnd:
        kind = Kind.QUEUED if message.position else Kind.TAKEN
        event, key = read_address(message.event)
        unit = unit_of(event.subject if key is None else key) if handler in self._join_names else event.identity
        kept = self._store.unit(handler, unit) if kind is Kind.TAKEN or message.returned else None
        return OpenEnd(kind, handler, event, message.attempt, message=message, unit=kept)

    @cached_property
    def _join_names(self) -> list[str]:
        return self._joins.handlers

    def _other_joins(
        self, what: str, runs: Sequence[Run], ends: Sequence[OpenEnd], stories: set[str]
    ) -> Iterator[OpenEnd]:
        """The joins that wait for these stories, under other keys than the subject."""
        events = [event for end in ends for event in end.events]
        keys = set(_once([*(run.subject for run in runs), *(event.subject for event in events)])) | self._keys
        found = {(join.handler, join.key): join for key in keys - {what} for join in self._joins.find(key)}
        for handler in self._join_names:
            if not self._joins.is_by_subject(handler):
                page = self._joins.page(handler, MOST_JOINS).joins
                found |= {(join.handler, join.key): join for join in page if join.key != what}
        for join in found.values():
            if any(part.envelope.correlation_id in stories for part in join.arrived):
                yield self._waiting(join)

    def _waiting(self, join: PendingJoin) -> OpenEnd:
        last, kept = join.arrived[-1].envelope, self._store.unit(join.handler, unit_of(join.key))
        due = join.until.timestamp()
        return OpenEnd(Kind.JOIN, join.handler, last, join.attempts + 1, due=due, join=join, unit=kept)


def _envelope(event: KnownEvent) -> Envelope:
    time = moment_of(event.at or 0.0)
    return Envelope(event.id, event.type, event.source, event.subject, time, event.story, event.cause)


class Sweep:
    """One look at the live state."""

    def __init__(self, broker: BrokerLook) -> None:
        self.broker = broker
        self.ends: list[OpenEnd] = []
        self.notes: list[str] = []

    def note(self, is_whole: bool, text: str) -> None:
        """Note what was not looked through."""
        if not is_whole:
            self.notes.append(text)


def _buried(handler: str, text: str) -> OpenEnd:
    letter = read(handler, text)
    event = letter.envelopes[0] if letter.envelopes else event_in(letter.message.body, letter.message.headers)
    return OpenEnd(Kind.LETTER, handler, event, letter.attempts, letter=letter)


def _scheduled(name: str, entry: Kept) -> OpenEnd | None:
    """The open end of an entry in a schedule. None for a notice of a dead letter, and a signal to a join."""
    message = entry.message
    if not isinstance(message, Message):
        return None
    event, _ = read_address(event_in(message.body, message.headers))
    if entry.id.startswith("notice:") or event.type in SIGNALS:
        return None
    is_announcement = bool(message.exchange)
    kind = _KINDS.get(entry.id.partition(":")[0], Kind.LATER)
    return OpenEnd(kind, name, event, message.retries + 1, due=entry.due, is_announcement=is_announcement)


#: The beginning of an id in a schedule → what the entry is.
_KINDS = {"retry": Kind.RETRY, "held": Kind.HELD, "turn": Kind.TURN}


def _attempts_in(runs: Iterable[Run]) -> dict[tuple[str, str], int]:
    """Handler and event → the last attempt that is recorded. One that was held is made again."""
    found: dict[tuple[str, str], int] = {}
    for run in runs:
        if run.result is Result.HELD:
            continue
        found[run.handler, run.event] = max(run.attempt, found.get((run.handler, run.event), 0))
    return found


def _is_over(end: OpenEnd, attempts: Mapping[tuple[str, str], int]) -> bool:
    """True if the attempt was recorded after its message had been seen, or the message is a mere duplicate."""
    if end.kind not in (Kind.QUEUED, Kind.TAKEN, Kind.RETRY) or end.event.replay:
        return False
    return attempts.get((end.handler, end.event.id), -1) >= end.attempt


def _newest(stories: Sequence[str], ends: Iterable[OpenEnd]) -> tuple[list[str], list[str]]:
    """
    The stories without the older ones of those with open ends, if these are more than `MOST_STORIES`; and a note then.

    Thousands of messages about one subject can wait, each of a story of its own, and each story is looked up.
    """
    times: dict[str, float] = {}
    for event in (event for end in ends for event in end.events):
        times[event.correlation_id] = max(times.get(event.correlation_id, 0.0), event.time.timestamp())
    waiting = sorted((story for story in stories if story in times), key=times.__getitem__)
    left_out = set(waiting[:-MOST_STORIES])
    note = f"{len(waiting)} stories of it are open, and only the newest {MOST_STORIES} were looked at"
    return [story for story in stories if story not in left_out], [note] if left_out else []


def _last(story: str, runs: Iterable[Run], ends: Iterable[OpenEnd]) -> float:
    """The last time at which something is known of a story."""
    told = [run.at for run in runs if run.story == story]
    told += [event.time.timestamp() for end in ends for event in end.events if event.correlation_id == story]
    return max(told, default=0.0)


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, names)))
