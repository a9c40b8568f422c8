"""The record of runs: what each handler did with each event, written in the same step as the outcome.

A record is for people, and a commit never fails because of it. One decision reads it: an outage breaker does not open
if the handler has just succeeded. Its length and its age are
bounded (see `Recording`), so it answers questions about the last hours or days, not about the last year.

The record of a handler is divided into `SHELVES` lists. A list is chosen by the subject for a run of the first event of
a story, and by the correlation id for every other run. So a subject leads to its stories, and a story to its runs, by a
look at a small part of the record. Where an event of a story has another subject than the event that caused it, an
entry in a list of its own leads from that subject to the story.
"""

import json
from binascii import a2b_base64, b2a_base64, crc32
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache
from json.encoder import encode_basestring as _quoted
from typing import Any, Protocol

from pydantic_core import to_json

from choreo.durations import LONGEST, is_wait
from choreo.errors import DeclarationError
from choreo.events.envelope import Envelope
from choreo.events.ids import is_uuid
from choreo.events.message import compact

#: The number of lists into which the record of a handler is divided.
SHELVES = 32
#: The longest text of a field in a record; a longer one is cut.
LONGEST_TEXT = 200
#: The longest event that is kept with a run, in characters.
LONGEST_EVENT = 32_768
#: The most events that one record names in each of its lists: what the run announced, and the parts of a join. A
#: handler may announce thousands of events at once, and a join may wait for as many.
MOST_NAMED = 500
#: The most parts of a join that its record in another story names; of a larger join it names those of that story.
_FEW = 20
#: The names of the lists.
_LISTS = [f"runs:{number}" for number in range(SHELVES)]
#: The positions of the story's id, and of the parts, in a record: see `_record_of`.
_STORY, _PARTS = 1, 11
#: What reading a foreign text raises, beside `ValueError`.
_UNREADABLE = (TypeError, KeyError, AttributeError, OverflowError, RecursionError)


class Result(StrEnum):
    """How a run ended. The value is its name for people."""

    DONE = "done"
    #: It failed, and a retry is scheduled.
    RETRY = "retry"
    #: It became a dead letter.
    DEAD = "dead letter"
    #: The event cancelled a join.
    CANCELLED = "cancelled"
    #: A join ran, or failed, at its deadline.
    TIMED_OUT = "timed out"
    #: A join was run by hand with the parts that had arrived.
    FIRED = "fired by hand"
    #: A join was cancelled by hand.
    CANCELLED_BY_HAND = "cancelled by hand"
    #: It failed while the handler's breaker was open: the attempt does not count, and is made again.
    HELD = "held"

    # It is looked up at each run, and the enum's own hash is a function in Python.
    __hash__ = str.__hash__


#: The result of a run → one character, for the record.
_LETTERS = dict(zip(Result, "drlctfhw", strict=True))
_RESULTS = {letter: result for result, letter in _LETTERS.items()}


#: An entry in the record of a handler: the name of the list, and the text.
Entry = tuple[str, str]


@dataclass(slots=True)
class Run:
    """One attempt of a handler whose outcome is recorded."""

    #: The id of the event. For a join: of the event that completed, cancelled or ended it.
    event: str
    #: The correlation id of the event.
    story: str
    #: The subject of the event.
    subject: str
    #: The type of the event.
    type: str
    #: From 1.
    attempt: int
    result: Result
    #: Seconds from the announcement of the event (or the time at which it was due) to the begin of this attempt. The
    #: two times are of two clocks, if the announcer is on another machine.
    waited: float = 0.0
    #: Seconds for which the handler ran.
    took: float = 0.0
    #: The node name of the worker.
    worker: str = ""
    #: The announced events: type and id.
    announced: Sequence[tuple[str, str]] = ()
    #: The error in one line, the id of the dead letter, or the reason for a cancellation.
    detail: str = ""
    #: The parts of a join that took part: type and id.
    parts: Sequence[tuple[str, str]] = ()
    #: Other stories that the run belongs to: those of a join's parts. Story → these parts: type and id.
    others: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    #: Other subjects by which the story is found: those that announced events have, and the event has not.
    subjects: Sequence[str] = ()
    #: The events that the run handled, if they are kept: see `Recording.events`.
    whole: Sequence[Envelope] = ()
    #: The name of the handler. The store knows it.
    handler: str = ""
    #: When the outcome was recorded: seconds since 1970, by the store's clock. Set by the store.
    at: float = 0.0

    @property
    def is_first(self) -> bool:
        """True for a run of the first event of a story."""
        return self.event == self.story

    @property
    def letter(self) -> str:
        """The id of the dead letter that it made; "" if it made none."""
        return self.detail.partition(" ")[0] if self.result is Result.DEAD else ""

    def has_part(self, event: str) -> bool:
        """True if this run handled or announced the event with this id."""
        return event == self.event or any(event == event_id for _, event_id in (*self.announced, *self.parts))


@dataclass(frozen=True, slots=True)
class Recording:
    """
    How much of the runs is recorded. Raises `DeclarationError` for values that cannot work.

        >>> bool(Recording(length=0))
        False
    """

    #: About how many runs of each handler are kept, the newest ones. 0: nothing is recorded.
    length: int = 10_000
    #: Older runs are dropped.
    lifetime: timedelta = timedelta(days=7)
    #: The share of stories that are recorded, from 0 to 1. A story is recorded as a whole, or not at all.
    sample: float = 1.0
    #: True if the events themselves are kept with the runs: for `choreo rerun`.
    events: bool = False
    #: True if the runs of all stories are recorded, and not their events.
    is_plain: bool = field(init=False, repr=False, compare=False, default=False)

    def __post_init__(self) -> None:
        if type(self.length) is not int or self.length < 0:
            raise DeclarationError(
                f"choreo_record_length = {self.length!r}: the number of runs to keep of each handler, such as 10000."
            )
        if not isinstance(self.lifetime, timedelta) or not is_wait(self.lifetime, above=0):
            raise DeclarationError(
                f"choreo_record_lifetime = {self.lifetime!r}: how long to keep runs, in seconds or as a timedelta, up "
                f"to {LONGEST.days} days."
            )
        if type(self.events) is not bool:
            raise DeclarationError(f"choreo_record_events = {self.events!r}: it takes True or False.")
        if type(self.sample) not in (int, float) or not 0 <= self.sample <= 1:
            raise DeclarationError(
                f"choreo_record_sample = {self.sample!r}: the share of stories to record, from 0 (none) to 1 (all)."
            )
        object.__setattr__(self, "is_plain", self.length > 0 and self.sample >= 1 and not self.events)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Recording":
        """What these settings of Celery say. Raises `DeclarationError` for a value that cannot work."""
        names = {name: f"choreo_record_{name}" for name in ("length", "lifetime", "sample", "events")}
        given = {name: settings.get(setting) for name, setting in names.items()}
        if isinstance(given["lifetime"], (int, float)) and is_wait(given["lifetime"]):
            given["lifetime"] = timedelta(seconds=given["lifetime"])
        return cls(**{name: value for name, value in given.items() if value is not None})

    def __bool__(self) -> bool:
        return self.is_plain or (self.length > 0 and self.sample > 0)

    def wants(self, story: str) -> bool:
        """True if the runs of this story are recorded."""
        return self.sample >= 1 or crc32(story.encode(errors="replace")) % 10_000 < self.sample * 10_000

    @property
    def shelf_length(self) -> int:
        """The number of runs that one of the lists keeps."""
        return max(self.length // SHELVES, 1)


class Runs(Protocol):
    """The record of runs. Reading it may miss what is written meanwhile. Raises `StoreError`."""

    @property
    def recording(self) -> Recording:
        """What this store records."""

    def runs(self, handler: str, story: str, subject: str | None = None) -> list[Run]:
        """
        The recorded runs of a handler that belong to this story, oldest first.

        ``subject`` is that of the story's first event. Without it, the whole record of the handler is read.
        """

    def stories(self, handler: str, subject: str) -> list[str]:
        """The stories with this subject of which this handler recorded the first event, or a change of subject."""

    def event(self, handler: str, event: str) -> str | None:
        """An event that this handler handled, as JSON of its envelope; None if it is not kept: `Recording.events`."""

    def story_of(self, handler: str, event: str) -> str | None:
        """The story of an event that this handler handled or announced. Reads the whole record of the handler."""

    def recent(self, handler: str, seconds: float, limit: int = 1000) -> list[Run]:
        """
        Runs whose outcome was recorded within the last ``seconds``, oldest first.

        ``limit`` bounds how many are read: of a busy handler, only the newest ones are returned.
        """


def shelf(name: str) -> int:
    """The number of the list that keeps the runs of a story, or the stories of a subject."""
    return crc32(name.encode("utf-8", "replace")) % SHELVES


def shelf_of(run: Run) -> int:
    """The number of the list that keeps this run: that of its story, or of the subject that leads to the story."""
    return shelf(run.subject if run.is_first else run.story)


def entries(run: Run) -> list[Entry]:
    """
    The entries that a run makes in its handler's record.

    All of them together are about as long as the names of the events. A record names `MOST_NAMED` of them.
    """
    made = [(_LISTS[shelf_of(run)], _text_of(run))]
    if not (run.others or run.subjects or run.whole):
        return made
    record = _record_of(run)
    for story, own in run.others.items():
        record[_STORY] = "" if story == run.event else _short(story)
        if len(run.parts) > _FEW:
            record[_PARTS] = _named(own)
        made.append((f"runs:{shelf(story)}", _encode(record)))
    for subject in run.subjects[:MOST_NAMED]:
        made.append((f"subjects:{shelf(subject)}", _encode([_cut(subject), _short(run.story)])))
    for event in run.whole[:MOST_NAMED]:
        made += _entry_of(event)
    return made


def _text_of(run: Run) -> str:
    """A run as the text of a JSON list: see `_record_of`."""
    if run.detail or run.parts:
        return _encode(_record_of(run))
    about = run.event, run.story, run.subject, run.type
    text = _plain_text(about, run.attempt, run.result, run.waited, run.took, run.handler, run.worker, run.announced)
    return text if text.isascii() else _encode(_record_of(run))


def plain_entry(
    event: Envelope,
    attempt: int,
    ended: Result,
    waited: float,
    took: float,
    handler: str,
    worker: str,
    announced: Sequence[tuple[str, str]] = (),
) -> Entry | None:
    """
    The only entry of a run of which nothing else is known, without a `Run`. The parameters are its fields.

    None if the text is none that this function can write: `entries` can.
    """
    about = event.id, event.correlation_id, event.subject, event.type
    text = _plain_text(about, attempt, ended, waited, took, handler, worker, announced)
    if not text.isascii():
        return None
    return _LISTS[shelf(event.subject if event.id == event.correlation_id else event.correlation_id)], text


def _plain_text(
    about: tuple[str, str, str, str],
    attempt: int,
    ended: Result,
    waited: float,
    took: float,
    handler: str,
    worker: str,
    announced: Sequence[tuple[str, str]],
) -> str:
    """
    The text of a run without a detail and parts, as `_encode` writes it, if it is ASCII. It takes a third of the time.

    ``about`` are the event, its story, its subject and its type.
    """
    event, story, subject, kind = about
    story = "" if story == event else _short(story)
    names = f"{_quoted(_short(event))},{_quoted(story)},{_quoted(_cut(subject))},{_quoted(_cut(kind))}"
    ending = f'{attempt},"{_LETTERS[ended]}",{round(waited * 1000)},{round(took * 1000)}'
    named = _quoted(_named_in_text(announced)) if announced else '""'
    return f"[{names},{ending},{_quoted(_worker_short(handler, worker))},{named}]"


def _entry_of(event: Envelope) -> list[Entry]:
    text = compact(event.to_wire())
    return [(f"events:{shelf(event.id)}", text)] if len(text) <= LONGEST_EVENT else []


def _record_of(run: Run) -> list[Any]:
    """A run as a JSON list. `from_text` reads its text."""
    record: list[Any] = [
        _short(run.event),
        "" if run.is_first else _short(run.story),
        _cut(run.subject),
        _cut(run.type),
        run.attempt,
        _LETTERS[run.result],
        round(run.waited * 1000),
        round(run.took * 1000),
        _worker_short(run.handler, run.worker),
        _named_in_text(run.announced) if run.announced else "",
    ]
    if run.detail or run.parts:
        record += [_cut(run.detail), _named(run.parts)]
    return record


def _named(parts: Sequence[tuple[str, str]]) -> list[list[str]]:
    return [[kind, _short(event_id)] for kind, event_id in parts[:MOST_NAMED]]


def other_stories(events: Iterable[Envelope], story: str) -> dict[str, list[tuple[str, str]]]:
    """`Run.others` of a join with these events as its parts, whose run belongs to this story."""
    found: dict[str, list[tuple[str, str]]] = {}
    for event in events:
        if event.correlation_id != story:
            found.setdefault(event.correlation_id, []).append((event.type, event.id))
    return found


def from_text(handler: str, at: float, text: str | bytes) -> Run:
    """Read the text of a run, as `entries` writes it. Raises `ValueError` for any other text."""
    try:
        event, story, subject, kind, attempt, letter, waited, took, worker, announced, *more = json.loads(text)
        detail, parts = more if more else ("", [])
        if not (type(attempt) is int and all(type(one) is str for one in (subject, kind, worker, detail))):
            raise TypeError("a field has another type")
        return Run(
            event=_long(event),
            story=_long(story or event),
            subject=subject,
            type=kind,
            attempt=attempt,
            result=_RESULTS[letter],
            waited=waited / 1000,
            took=took / 1000,
            worker=_worker_long(handler, worker),
            announced=[(name, _long(short)) for name, _, short in (one.rpartition(":") for one in announced.split())],
            detail=detail,
            parts=[(name, _long(short)) for name, short in parts],
            handler=handler,
            at=at,
        )
    except _UNREADABLE as error:
        raise ValueError(f"{text!r} is no record of a run") from error


def needle(name: str) -> str:
    """A text that every record of this story, event or subject contains. Other records may contain it as well."""
    return _encode(_short(name))[1:-1]


def needle_of_event(event_id: str) -> str:
    """A text that the kept event with this id contains."""
    return f'"id":{compact(event_id)},'


def needle_of_subject(subject: str) -> str:
    """A text that every entry of this subject contains. Of a long subject it is the beginning."""
    return _encode(subject[: LONGEST_TEXT - 1])[1:-1]


def is_subject(recorded: str, subject: str) -> bool:
    """True if the subject of a run in the record is this one, perhaps cut."""
    return recorded == _cut(subject)


def subject_entry(text: str | bytes) -> tuple[str, str]:
    """The subject and the story in an entry of the list of subjects. Raises `ValueError` for any other text."""
    try:
        subject, story = json.loads(text)
        if type(subject) is not str:
            raise TypeError("a subject is a text")
        return subject, _long(story)
    except _UNREADABLE as error:
        raise ValueError(f"{text!r} names no subject and story") from error


def in_order(runs: Iterable[Run]) -> list[Run]:
    """The runs, oldest first."""
    return sorted(runs, key=lambda run: run.at)


def _short(event_id: str) -> str:
    """An id in the record. A UUID takes 22 characters in place of 36, behind a mark that no other id begins with."""
    if not is_uuid(event_id):
        return "=" + _cut(event_id)
    return "~" + b2a_base64(bytes.fromhex(event_id.replace("-", "")))[:22].decode()


def _long(short: str) -> str:
    if short[:1] != "~":
        return short[1:]
    text = a2b_base64(short[1:] + "==").hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _named_in_text(events: Sequence[tuple[str, str]]) -> str:
    return " ".join([f"{kind}:{_short(event_id)}" for kind, event_id in events[:MOST_NAMED]])


@lru_cache
def _worker_short(handler: str, worker: str) -> str:
    """The name of a worker in the record: without the name of the service where that comes twice, as it mostly does."""
    service = handler.partition(".")[0]
    return worker.removeprefix(f"{service}@{service}")


def _worker_long(handler: str, short: str) -> str:
    service = handler.partition(".")[0]
    return f"{service}@{service}{short}" if short[:1] == "." else short


def _encode(value: Any) -> str:
    """The value as JSON. `json.dumps` takes six times as long."""
    try:
        return to_json(value).decode()
    except ValueError:  # half a surrogate pair, in an argument of a command
        return json.dumps(value, separators=(",", ":"))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
