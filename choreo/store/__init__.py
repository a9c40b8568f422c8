"""The store: what a handler's worker decides, and what it must not forget.

A **unit** is what is done once: one event for one handler, or one key of a join. Its life is three calls::

    begin / arrive ──> RUN ──> (the handler runs) ──> commit ──> OK
                  ├──> WAIT    a join that is not complete yet
                  ├──> DONE    committed before: nothing to do
                  ├──> BUSY    another worker holds the lease: come back when it has run out
                  └──> POISON  begun too often without an end: it kills its workers

`commit` is one step: the unit is settled, and what follows from it (announced events, a retry, a dead letter) is
recorded in the **schedule**. A message in the schedule is sent when it falls due, by whichever worker of the service
comes first, and removed only after the broker has it: what a crash left unsent is sent by somebody else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from choreo.errors import DeclarationError, StoreError
from choreo.message import Message

if TYPE_CHECKING:
    from choreo.broker.commits import Commits

#: Whose schedule holds the delayed events that no handler announced. Every worker looks into it.
DELAYED = "delayed"
#: A schedule id that begins so is a join's deadline, which needs no message of its own.
DEADLINE_PREFIX = "deadline:"
#: What the worker that committed sends at once, others send after this many seconds: it must have died.
OUTBOX_GRACE = 2.0

#: Why a commit that answers `Outcome.LOST` has failed.
FORGOTTEN = "it has forgotten that this was begun: it was restarted without its data, or lost some"


class Verdict(StrEnum):
    """What `begin` and `arrive` decide about a delivery."""

    RUN = "run"
    WAIT = "wait"
    DONE = "done"
    BUSY = "busy"
    POISON = "poison"


class Outcome(StrEnum):
    """What `commit` answers."""

    OK = "ok"
    #: The unit was settled before.
    ALREADY = "already"
    #: The lease went to somebody else: nothing was changed.
    STALE = "stale"
    #: The store has forgotten the claim, and nobody else has it: nothing was changed, and nothing is done.
    LOST = "lost"
    #: It is on its way, in the order in which commits were made: `Settlement.hear` is told what became of it.
    SENT = "sent"


# What is made for each event is not frozen: that would take three times as long.


@dataclass(slots=True)
class Claim:
    """A worker's wish to run one attempt of a unit. ``token`` is the worker's own, and tells a zombie from an owner."""

    handler: str
    unit: str
    token: str
    #: From 1; 0 for what is no attempt at all (somebody cancels a join by hand).
    attempt: int = 1
    #: Where the copy in the worker's hands is kept on a broker that is the store's own Redis: in flight key and tag.
    receipt: tuple[str, str] | None = None
    #: The id of the event whose attempts these are, where that is no part of a join but a signal to it.
    signal: str = ""
    #: Where commits of this claim may be sent ahead, on such a broker: see `choreo.broker.commits`.
    line: "Commits | None" = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class Begun:
    """The answer to a claim."""

    verdict: Verdict
    #: How often this attempt was begun, this time included.
    deliveries: int = 0
    #: Seconds until the lease of the current owner runs out (BUSY).
    busy_seconds: float = 0.0
    #: What has arrived for a join: the part's name (see `Arrival`) → its text.
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arrival:
    """
    One event for a join, and what the join needs.

    A part is kept under its ``name``, once: the type, or type/id where there are several of a type.
    """

    part: str
    name: str
    text: str
    #: What is needed: type → how many; None for one, 0 for as many as another part tells.
    needs: Mapping[str, int | None]
    #: How many of the needed types make the join complete.
    at_least: int
    #: Seconds from the first part to the deadline.
    within: float
    #: How many of other types this one asks for.
    told: Mapping[str, int] = field(default_factory=dict)
    #: Whether it was delivered before. If it is there already, somebody sent it once, and not twice.
    again: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A join that is not settled yet. Times are seconds since 1970, by the store's clock."""

    unit: str
    #: When it ends unless it is complete.
    deadline: float
    #: The deadline has passed, and the handler was told.
    reminded: bool
    #: Name → text, in the order of arrival.
    parts: Mapping[str, str]
    #: Name → when it arrived.
    arrived: Mapping[str, float]
    #: How many of a type another part has asked for.
    told: Mapping[str, int]
    #: Attempts whose failure is recorded.
    attempts: int = 0
    #: Seconds for which a worker still holds it; 0 when none does.
    lease: float = 0.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in one schedule: retries, deadlines, delayed events, and what a crash left unsent."""

    #: How many are due and not sent yet. Live workers keep that at 0, but for the moment it takes them.
    due: int = 0
    #: For how many seconds the first of them has been due.
    late: float = 0.0
    #: How many fall due later.
    later: int = 0
    #: When the next of them does, in seconds since 1970 by the store's clock.
    next_at: float | None = None
    #: How many joins have passed their deadline and were told so, and are not settled yet.
    reminded: int = 0

    @property
    def total(self) -> int:
        return self.due + self.later + self.reminded


def deadline_id(unit: str) -> str:
    """The id of a join's deadline in the schedule."""
    return DEADLINE_PREFIX + unit


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A message to be sent ``delay`` seconds from now. Scheduling the same id again changes nothing."""

    id: str
    message: Message
    delay: float = 0.0


@dataclass(slots=True)
class Settlement:
    """What is recorded with a commit, all of it or nothing."""

    #: The unit is finished for good; otherwise only this attempt is.
    done: bool = True
    #: What leaves with the commit: the id under which it waits in the outbox, where there is one, and the message.
    sent: Mapping[str, Message] = field(default_factory=dict)
    scheduled: Sequence[Scheduled] = ()
    #: Ids in the schedule that are no longer wanted.
    unscheduled: Sequence[str] = ()
    #: A dead letter: its id and its JSON.
    letter: tuple[str, str] | None = None
    #: For so many seconds it is remembered that the unit is done, if that is longer than `Terms.retention`.
    remember: float = 0.0
    #: Who is told the answer, if the commit may be sent ahead on the claim's line, without waiting for it.
    hear: "Callable[[Committed | StoreError], None] | None" = None


@dataclass(slots=True)
class Committed:
    """What `commit` answers."""

    outcome: Outcome
    #: What the caller has to send, and to report as `sent`. It is in the outbox: if the caller dies, others send it.
    unsent: Mapping[str, Message] = field(default_factory=dict)
    #: What was sent by the store, and reached nobody.
    unheard: Sequence[Message] = ()
    #: It was sent more than once, since an answer got lost: what it found settled may be its own work.
    again: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """How long the store waits and remembers."""

    #: A worker that does not renew its claim for this long has lost it.
    lease: timedelta = timedelta(seconds=15)
    #: How long a finished unit is remembered. Must cover the longest time in which its event can still come back.
    retention: timedelta = timedelta(days=1)
    #: How often one attempt is begun before it counts as poison.
    max_deliveries: int = 5

    def __post_init__(self) -> None:
        for name, value in (("lease", self.lease), ("retention", self.retention)):
            if not isinstance(value, timedelta) or value <= timedelta(0):
                raise DeclarationError(f"Terms({name}={value!r}): a time, like {name}=timedelta(minutes=1).")
        if self.retention <= self.lease:
            raise DeclarationError(f"Terms(retention={self.retention!r}): longer than the lease, {self.lease!r}.")
        if type(self.max_deliveries) is not int or self.max_deliveries < 1:
            raise DeclarationError(f"Terms(max_deliveries={self.max_deliveries!r}): a number from 1.")


#: A queue and a pattern that leads to it.
Binding = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Declared:
    """What `Store.declare` answers."""

    #: Whether this worker was known as alive. If not, others may have removed its bindings meanwhile.
    known: bool = False
    #: Bindings that were made once, and which no live worker declares.
    stale: Sequence[Binding] = ()
    #: Those of the removed ones which some worker has declared meanwhile: to be made again.
    again: Sequence[Binding] = ()
    #: Queues that were declared once, and which no live worker declares.
    orphans: Sequence[str] = ()


class Store(Protocol):
    """
    Every method is one decision, and atomic.

    Raises `StoreError` when the store cannot be reached; nothing is half done then, and calling again is safe.
    Time is the store's own, never a worker's clock.
    """

    def begin(self, claim: Claim) -> Begun:
        """Claim a unit."""

    def arrive(self, claim: Claim, arrival: Arrival) -> Begun:
        """
        Record one part of a join, and claim the join if what it needs is there.

        The first part sets the deadline. WAIT comes with the number of parts that are there. A part that arrived
        before is kept as it was, and claims all the same: the worker which claimed last may have died.
        Once the join is complete nothing is added to it, so that each attempt sees the same parts. What is not kept
        is counted: see `tally`.
        """

    def arrive_ahead(self, claim: Claim, arrival: Arrival) -> Callable[[], Begun | None] | None:
        """
        Do the same on the claim's line, without waiting for the answer; None where that cannot be done.

        The claim does not count as begun. What is returned waits for the answer; it answers None, and `arrive` is to be
        asked, when there is none.
        """

    def forgive(self, claim: Claim) -> None:
        """The unit's handler was ended by a stop of its worker: that it was begun counts once less."""

    def waiting(self, handler: str, limit: int, after: str = "") -> tuple[list[str], str]:
        """
        Units of pending joins, soonest deadline first, and from where to go on; that is empty at the end.

        A page can be shorter than ``limit``. What arrives or is settled between two pages may be missed.
        """

    def look(self, handler: str, unit: str) -> Waiting | None:
        """A pending join, as it is now."""

    def tally(self, handler: str) -> dict[str, int]:
        """
        How many events did not count for a join: "late" ones came after it was complete or settled, "duplicate" ones
        were there already, "surplus" ones were more than it needs.
        """

    def describe_joins(self, descriptions: Mapping[str, str]) -> None:
        """Make known what these handlers wait for: handler → JSON."""

    def joins(self) -> dict[str, str]:
        """Every join that was ever described: handler → JSON."""

    def renew(self, claim: Claim) -> bool:
        """Prolong the lease. False when it is no longer this worker's."""

    def commit(self, claim: Claim, settlement: Settlement) -> Committed:
        """Settle a claim. Unless the outcome is OK, nothing of the settlement holds, and nothing is to be sent."""

    def schedule(self, owner: str, scheduled: Scheduled) -> None:
        """Remember a message for later. ``owner`` is the handler (or service) whose workers will send it."""

    def unschedule(self, owner: str, schedule_id: str) -> bool:
        """Forget a message that nobody has been handed yet. False when it is too late for that, or there is none."""

    def now(self) -> float:
        """Seconds since 1970, by the clock that decides what is due."""

    def tend(self, owner: str, seconds: float) -> None:
        """Say that somebody looks into this schedule, and will for so many seconds."""

    def tended(self, owner: str) -> bool:
        """Whether somebody looks into this schedule."""

    def ripe(self, owners: Sequence[str]) -> list[str]:
        """In whose schedules something is due. One question for all of them, since mostly nothing is."""

    def due(self, owner: str, limit: int, hold: float) -> list[tuple[str, Message | None]]:
        """
        Up to ``limit`` messages that are due. They are due again after ``hold`` seconds unless `sent` is called.

        A join's deadline (see `deadline_id`) comes without a message.
        """

    def sent(self, owner: str, ids: Sequence[str]) -> None:
        """Forget messages that the broker has. A join whose deadline was sent stays pending until it is settled."""

    def backlog(self, owner: str) -> Backlog:
        """What waits in the schedule."""

    def bury(self, handler: str, letter_id: str, letter: str, scheduled: Sequence[Scheduled] = ()) -> None:
        """Record a dead letter outside any unit: a delivery that could not even be read."""

    def letters(self, handler: str) -> list[str]:
        """The dead letters of a handler as JSON, oldest first."""

    def letter(self, handler: str, letter_id: str) -> str | None:
        """One dead letter as JSON."""

    def discard(self, handler: str, letter_id: str) -> bool:
        """Forget a dead letter. False when there was none."""

    def replay(
        self, handler: str, letter_id: str, unit: str | None, parts: Mapping[str, str], scheduled: Scheduled
    ) -> bool:
        """
        Take a dead letter back: forget what was settled of its unit, restore a join's parts, and schedule the message.

        ``parts`` are named as in `Arrival`; ``?type`` is how many of a type another part has asked for.

        False when there was no such letter (somebody else was faster): nothing is changed.
        """

    def register(self, handlers: Sequence[str]) -> None:
        """Make these handlers known, so that their dead letters are found even when their code is gone."""

    def handlers(self) -> list[str]:
        """Every handler that was ever registered, sorted."""

    def declare(
        self, service: str, worker: str, bindings: Sequence[Binding], ttl: float, removed: Sequence[Binding] = ()
    ) -> Declared:
        """
        Say that a worker lives for the next ``ttl`` seconds and declares these bindings; 0 says that it ends.

        ``removed`` are stale bindings that this worker has removed from the broker since.
        """

    def forget_queue(self, service: str, queue: str) -> None:
        """A queue that no longer exists is no orphan."""

    def ping(self) -> None:
        """Raise `StoreError` unless the store answers."""
