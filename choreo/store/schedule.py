"""The schedule: messages that are sent later. Retries, deadlines of joins, delayed events, and the outbox."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha1
from typing import Protocol

from choreo.events.message import Message

#: The name of the schedule of delayed events that were announced outside a handler. Every worker looks into it.
DELAYED = "delayed"
#: A schedule id with this prefix is a join's deadline, which needs no message of its own.
DEADLINE_PREFIX = "deadline:"
#: Seconds for which a worker's report holds that it sends delayed events: see `Schedule.tend`.
TENDED = 30.0


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A message to be sent ``delay`` seconds from now. Scheduling the same id again changes nothing."""

    id: str
    message: Message
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An entry of the schedule that is no message: its text, and the fault."""

    text: bytes
    fault: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry of a schedule."""

    #: The id of the entry, such as ``retry:...``.
    id: str
    #: When it falls due, in seconds since 1970.
    due: float
    #: None for a join's deadline.
    message: Message | Unreadable | None
    #: True if a worker was given it, and may be sending it.
    is_leaving: bool = False


class Hurried(StrEnum):
    """What became of an entry that was to fall due now."""

    #: It falls due now.
    NOW = "now"
    #: It was due already. It waits for a worker.
    DUE = "due"
    #: A worker was given it, and may be sending it.
    LEAVING = "leaving"
    #: There is no such entry: it was sent.
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits in one schedule."""

    #: Messages that are due and not sent yet. With live workers it is 0, except while they send.
    due: int = 0
    #: Seconds since the first of them fell due.
    late: float = 0.0
    #: Messages that fall due later.
    later: int = 0
    #: The time at which the next of them falls due, in seconds since 1970 by the store's clock; None if there is none.
    next_at: float | None = None
    #: Joins whose deadline has passed and was sent, and that are not settled yet.
    reminded: int = 0
    #: Joins that are not settled, by their deadlines: they are among the entries above.
    joins: int = 0

    @property
    def total(self) -> int:
        """All entries of the schedule."""
        return self.due + self.later + self.reminded


def deadline_id(unit: str) -> str:
    """The schedule id of a join's deadline."""
    return DEADLINE_PREFIX + unit


def entry_mark(name: str, schedule_id: str) -> str:
    """A short name for an entry, for people: ten hexadecimal digits. The script find_entry.lua computes it."""
    text = f"{name}/{schedule_id}".encode(errors="surrogateescape")
    return sha1(text, usedforsecurity=False).hexdigest()[:10]


class Schedule(Protocol):
    """
    Messages that wait for their time. Every method is one atomic decision. Time is the store's own.

    There is a schedule for each handler, each other queue of a service, and the delayed events (`DELAYED`). ``name`` is
    the name of one. The workers of a service send what is due in its schedules.
    """

    def schedule(self, name: str, scheduled: Scheduled) -> None:
        """Keep a message for later."""

    def unschedule(self, name: str, schedule_id: str) -> bool:
        """Remove a message that no worker has been given yet. False when it is too late, or there is none."""

    def now(self) -> float:
        """Seconds since 1970, by the clock that decides which messages are due."""

    def tend(self, name: str, seconds: float) -> None:
        """Report that a worker looks into this schedule, and will for ``seconds``."""

    def tended(self, name: str) -> bool:
        """True if a worker looks into this schedule."""

    def ripe(self, names: Sequence[str]) -> list[str]:
        """Those of these schedules in which a message is due. One call for all of them, since mostly there is none."""

    def with_entries(self, names: Sequence[str]) -> list[str]:
        """Those of these schedules that have entries, or cannot be looked at. One round trip."""

    def due(self, name: str, limit: int, hold: float) -> list[tuple[str, Message | Unreadable | None]]:
        """
        Up to ``limit`` messages that are due. They are due again after ``hold`` seconds unless `sent` is called.

        A join's deadline (see `deadline_id`) comes without a message. What another program has put there, and is no
        message, comes as `Unreadable`.
        """

    def sent(self, name: str, ids: Sequence[str]) -> None:
        """Remove messages that the broker has. A join whose deadline was sent stays pending until it is settled."""

    def backlog(self, name: str) -> Backlog:
        """How much waits in the schedule."""

    def entries(self, name: str, limit: int, after: tuple[float, str] = (0.0, "")) -> list[Kept]:
        """
        Up to ``limit`` entries, by their due time and then by their id, which follow this due time and id.

        With "" as the id: those that fall due then, and later. Deadlines that were sent are left out.
        """

    def find_entry(self, name: str, mark: str) -> Kept | None:
        """The entry with this `entry_mark`; None if there is none. A deadline that was sent is none."""

    def hurry(self, name: str, schedule_id: str) -> Hurried:
        """Let an entry fall due now, unless a worker was given it."""

    def upcoming(self, name: str, seconds: float, limit: int) -> list[tuple[str, float]]:
        """Ids of entries that fall due within so many seconds, and when: the first ``limit`` of them."""
