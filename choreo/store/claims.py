"""Claims: which worker runs which unit, and how a unit is settled.

A **unit** is work that is done once: one event for one handler, or one key of a join. Its life is two calls::

    begin / arrive ──> RUN ──> (the handler runs) ──> commit ──> OK
                  ├──> WAIT    the join is not complete yet
                  ├──> DONE    committed before: nothing to do
                  ├──> BUSY    another worker holds the claim: come back when its lease has run out
                  └──> POISON  begun too often and never finished: it kills its workers

`Claims.commit` is one step. It settles the unit and records the result: announced events and a retry in the schedule, a
dead letter among the dead letters. A message in the schedule is sent when it falls due, by any worker of the service,
and removed only after the broker has it. So if a worker crashes, another worker sends its messages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from choreo.events.message import Message
from choreo.store.letters import Card
from choreo.store.runs import Entry
from choreo.store.schedule import Scheduled

#: Seconds after which any worker sends the outbox of a commit. The worker that committed sends it at once; after this
#: long it has most likely died. If it is only slow, the event is sent twice, and the inbox recognises it.
OUTBOX_GRACE = 2.0

#: The reason given when a commit answers `Outcome.LOST`.
FORGOTTEN = "the store has forgotten this claim: it was restarted without its data, or lost some"


#: `ClaimResult.note` of an event that came when its join was complete, and not settled yet.
COMPLETE = "complete"
#: `ClaimResult.note` of an event whose join waits, and has enough of its type.
SURPLUS = "surplus"


class Verdict(StrEnum):
    """The answer of `begin` and `arrive` to a delivery."""

    RUN = "run"
    WAIT = "wait"
    DONE = "done"
    BUSY = "busy"
    POISON = "poison"


class Outcome(StrEnum):
    """The answer of `commit`."""

    OK = "ok"
    #: The unit was settled before.
    ALREADY = "already"
    #: Another worker has the claim, or this attempt is settled: nothing was changed.
    STALE = "stale"
    #: The store has forgotten the claim, and no other worker has it: nothing was changed.
    LOST = "lost"


class Repeated(StrEnum):
    """The answer of `repeat`."""

    #: The unit runs once more.
    OK = "repeated"
    #: It is not finished: it runs, or waits for its next attempt.
    BEGUN = "begun"
    #: A join of this key waits for parts.
    WAITING = "waiting"


# Classes that are made for each event are not frozen: that would take three times as long.


@dataclass(slots=True)
class Claim:
    """
    A worker's right to run one attempt of a unit, as the worker asks for it.

    ``token`` is unique to the claim. The store compares it at each call, so a worker that lost its claim changes
    nothing.
    """

    handler: str
    unit: str
    token: str
    #: From 1; 0 for a claim that is no attempt (a signal, or a join that is cancelled by hand).
    attempt: int = 1
    #: The id or identity of the signal that is attempted; "" for the unit itself. See `choreo.delivery.signals`.
    signal: str = ""
    #: The identity of an event that has an effect on one round of a join at most: the answer is DONE if it was in
    #: `Settlement.took_part` before. If the unit is finished, the event is remembered like these. "": no such event.
    once: str = ""
    #: Seconds for which a claim holds that is made ahead, before the handler's turn. It does not count as a beginning:
    #: a claim with the same token and without ``ahead`` does that, in the handler's turn. The answer is BUSY if the
    #: attempt was begun before. 0: the handler begins now, and the claim holds for `Terms.lease`.
    ahead: float = 0.0


@dataclass(slots=True)
class ClaimResult:
    """The answer to a claim."""

    verdict: Verdict
    #: How often this attempt was begun, including this time. With WAIT: how many parts have arrived.
    deliveries: int = 0
    #: With BUSY: seconds until the lease of the current claim runs out.
    busy_seconds: float = 0.0
    #: The parts that have arrived for a join: the part's name (see `Arrival`) → its text.
    parts: Mapping[str, str] = field(default_factory=dict)
    #: Says why an event did not count for a join. With DONE: the `Settlement.note` of the join, or `COMPLETE`. With
    #: WAIT: `SURPLUS`. "" if the event counts, or came before.
    note: str = ""


@dataclass(slots=True)
class LastEnd:
    """What is known of the beginning before the current one, which never finished."""

    #: The text of `Claims.record_end`; "" if nothing was noted of that beginning.
    text: str = ""
    #: The token of its claim, or the name of its consumer; "" if it is not known.
    holder: str = ""


@dataclass(slots=True)
class Settlement:
    """The records that a commit makes: all of them or none."""

    #: True: the unit is finished for good. False: only this attempt is.
    done: bool = True
    #: Messages that leave with the commit: id → message. With an outbox, they wait in it under this id.
    sent: Mapping[str, Message] = field(default_factory=dict)
    scheduled: Sequence[Scheduled] = ()
    #: Ids to remove from the schedule.
    unscheduled: Sequence[str] = ()
    #: A dead letter: its id, its JSON, and its card, without which it is not in the index: see `choreo.store.letters`.
    letter: tuple[str, str] | tuple[str, str, Card] | None = None
    #: Seconds for which the finished unit is remembered, if that is longer than `Terms.retention`.
    remember: float = 0.0
    #: A text that is kept with a finished join, for events that come late: see `ClaimResult.note`.
    note: str = "1"
    #: The identities of the events that took part in a round of a join. They are remembered for `Terms.retention`, and
    #: begin no other round.
    took_part: Sequence[str] = ()
    #: Seconds for which the service of the handler remembers them, if another program settles the unit. 0: as long as
    #: this program does.
    retention: float = 0.0
    #: The name of a counter of the handler that counts one more: see `Joins.tally`. "": none.
    counted: str = ""
    #: What the record of runs gets, as `choreo.store.runs.entries` writes it. Empty: the run is not recorded.
    record: Sequence[Entry] = ()


@dataclass(slots=True)
class CommitResult:
    """The answer to a commit."""

    outcome: Outcome
    #: Messages that the caller must send, and then report as `sent`. They are in the outbox: if the caller dies, other
    #: workers send them.
    unsent: Mapping[str, Message] = field(default_factory=dict)
    #: Messages that the store sent itself and that reached no queue.
    unheard: Sequence[Message] = ()
    #: The commit was sent more than once because an answer got lost. If it answers ALREADY or STALE, that may be
    #: its own work.
    repeated: bool = False


class Claims(Protocol):
    """The units of work. Every method is one atomic decision."""

    def begin(self, claim: Claim) -> ClaimResult:
        """Claim a unit."""

    def renew(self, claim: Claim) -> bool:
        """Prolong the lease. False when another worker has the claim, or the unit is settled."""

    def forgive(self, claim: Claim) -> None:
        """Count one beginning less: a stop of the worker ended the handler, which is not the handler's fault."""

    def record_end(self, handler: str, unit: str, text: str, tokens: Sequence[str] = ()) -> None:
        """
        Record how the process ended that ran this unit. Nothing if the unit is finished, or was never begun.

        ``tokens`` are those of the process's claims; one that ends with ``-`` is the beginning of such tokens. If
        another process has claimed the unit since, nothing is recorded. Without tokens, the process is not checked.
        """

    def last_end(self, handler: str, unit: str) -> LastEnd:
        """What is known of the last beginning, if another one has begun since or its process has ended."""

    def is_finished(self, handler: str, unit: str) -> bool:
        """True if the unit is finished for good, and the store remembers it."""

    def returned(self, handler: str, delivery: str, by: int = 1) -> int:
        """
        Count one more return of a delivery to its queue that no claim counts. Returns the number of its returns.

        ``delivery`` is any text that names it. With ``by`` = -1, one return less. The count is kept for
        `Terms.retention`.
        """

    def repeat(self, handler: str, unit: str, parts: Mapping[str, str], scheduled: Scheduled) -> Repeated:
        """
        Forget that a unit is finished, restore a join's parts, and schedule the message that runs it once more.

        ``parts`` are those of `choreo.store.letters.Letters.replay`. A unit that is not known counts as finished.
        Unless the answer is OK, nothing is changed.
        """

    def commit(self, claim: Claim, settlement: Settlement) -> CommitResult:
        """Settle a claim. Unless the outcome is OK, nothing of the settlement holds, and nothing is to be sent."""
