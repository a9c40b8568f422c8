"""What runs: the services whose workers live, what each declares, and which events still wait for them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from choreo.broker.queued import event_in
from choreo.declare.description import ServiceDescription
from choreo.errors import ChoreoError
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.operate.cabinet import read
from choreo.store.presence import Presence, Program
from choreo.store.schedule import DELAYED


@dataclass(frozen=True)
class Release:
    """The programs of one service that run with one description."""

    service: ServiceDescription
    #: The version of its code; "" if it tells none.
    version: str
    #: The number of its workers. 0: programs that only publish, and were seen.
    workers: int

    @property
    def name(self) -> str:
        """For people: ``loyalty 1.4``."""
        return f"{self.service.service} {self.version or '(unknown version)'}"


@dataclass(frozen=True)
class Waiting:
    """The events of one type and version that wait for a handler."""

    #: None: unknown, as in the queues of RabbitMQ.
    version: int | None
    queued: int = 0
    scheduled: int = 0
    letters: int = 0
    #: Parts of joins that are not complete.
    joined: int = 0

    def __str__(self) -> str:
        at = "of unknown versions" if self.version is None else f"at v{self.version}"
        parts = [(self.queued, "in backlog"), (self.scheduled, "in the schedule"), (self.joined, "in joins")]
        letters = [f"{self.letters} dead letter{'' if self.letters == 1 else 's'}"] * bool(self.letters)
        named = [f"{number} {what}" for number, what in parts if number or what == "in backlog"]
        return f"{', '.join([*named, *letters])} {at}"


@dataclass(frozen=True)
class Running:
    """What the store and the broker tell of a platform now."""

    releases: Sequence[Release] = ()
    #: (handler, type) → what waits, the oldest version first. Handler "": delayed events, which go to all.
    waiting: Mapping[tuple[str, str], Sequence[Waiting]] = field(default_factory=dict)
    #: What could not be looked at, in words.
    notes: Sequence[str] = ()

    def waits(self, handler: str, event_type: str) -> list[Waiting]:
        """What waits of this type for a handler, with the delayed events that it will hear."""
        return [one for name in (handler, "") for one in self.waiting.get((name, event_type), ())]


def look(app: Any, types: Iterable[str]) -> Running:
    """
    Look at what runs, and at what waits of these types. Consumes nothing. Raises `StoreError`.

    ``app`` is a service that knows the broker and the store. A broker that does not answer is a note.
    """
    store = app.runtime.store
    presences = [store.presence(service) for service in store.services()]
    releases = [release for presence in presences for release in _releases(presence)]
    handlers = {handler.name for release in releases for handler in release.service.handlers} | set(store.handlers())
    notes: list[str] = []
    found = _Counted(app, sorted(handlers), notes).of(sorted(set(types)))
    return Running(releases, found, notes)


def _releases(presence: Presence) -> Iterator[Release]:
    """The live workers by what they declare; and the programs that only publish, of which the last ones are known."""
    publishing = [program for program in presence.gone if not program.is_worker]
    groups: dict[tuple[str, str], list[Program]] = {}
    for program in [*presence.workers, *publishing]:
        groups.setdefault((program.digest, program.version), []).append(program)
    for (digest, version), programs in groups.items():
        described = _described(presence.descriptions.get(digest, ""))
        if described is not None:
            yield Release(described, version, sum(program.is_alive for program in programs))


def _described(text: str) -> ServiceDescription | None:
    with suppress(ValueError):
        return ServiceDescription.from_json(text)
    return None


class _Counted:
    """Counts what waits for handlers."""

    def __init__(self, app: Any, handlers: Sequence[str], notes: list[str]) -> None:
        self._app, self._handlers, self._notes = app, handlers, notes
        self._found: dict[tuple[str, str, int | None], Counter[str]] = {}

    def of(self, types: Sequence[str]) -> dict[tuple[str, str], list[Waiting]]:
        """(handler, type) → what waits of it."""
        if not types or not self._handlers:
            return {}
        self._queues(types)
        store = self._app.runtime.store
        for handler in [*self._handlers, DELAYED]:
            scheduled, is_all = store.find_scheduled(handler, types)
            letters, are_all = store.find_letters(handler, types)
            for kept in scheduled:
                # A delayed event has the exchange as its goal, and is heard by all.
                is_own = isinstance(kept.message, Message) and not kept.message.exchange
                self._note("scheduled", handler if is_own else "", types, _events_of(kept.message))
            for text in letters:
                self._note("letters", handler, types, read(handler, text).envelopes)
            if not (is_all and are_all):
                self._notes.append(f"{handler} has more in its schedule or dead letters than was looked at")
        self._joins(types)
        counted: dict[tuple[str, str], list[Waiting]] = {}
        for (handler, kind, version), counts in sorted(
            self._found.items(), key=lambda one: (one[0][:2], one[0][2] or 0)
        ):
            counted.setdefault((handler, kind), []).append(Waiting(version, **counts))
        return counted

    def _queues(self, types: Sequence[str]) -> None:
        runtime = self._app.runtime
        names = {runtime.queue_of(handler): handler for handler in self._handlers}
        look = runtime.look_at_broker(list(names), types)
        self._notes += look.notes
        for message in look.messages:
            self._note("queued", names.get(message.queue, message.queue), types, [message.event])
        for queue, depth in look.depths.items():
            for kind in types if depth.count and queue in names else ():
                # Which types they have is not known either: the readers of each of them are told.
                self._found.setdefault((names[queue], kind, None), Counter())["queued"] += depth.count

    def _joins(self, types: Sequence[str]) -> None:
        with suppress(ChoreoError):
            for pending in self._app.joins:
                self._note("joined", pending.handler, types, (part.envelope for part in pending.arrived))

    def _note(self, where: str, handler: str, types: Sequence[str], events: Iterable[Envelope]) -> None:
        for event in events:
            if event.type in types:
                self._found.setdefault((handler, event.type, event.version), Counter())[where] += 1


def _events_of(message: object) -> list[Envelope]:
    return [event_in(message.body, message.headers)] if isinstance(message, Message) else []
