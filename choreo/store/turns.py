"""Turns: the events of one key of a handler run one after another (``sequential_by=``).

The events of one key, in their order, are a **series**. One of them has the turn, and keeps it until it is finished.
The others wait: their copies are in the schedule of the handler, and acked in its queue. The delivery that ends the
turn sends the copy of the next event. That copy is also an entry that falls due (`CALL_GRACE`), as in an outbox, so a
crash in between delays it and loses nothing.

A turn lasts only as long as there are signs of its event: see `RUNNING`, `CALLED`, `ASKED` and `AWAITED`. If its copy
is lost (a queue was purged, say), the next event has the turn after that time, when a waiting one asks again
(`ASK_AGAIN`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from choreo.events.message import Message

#: A schedule id with this prefix is a copy that waits for its turn.
TURN_PREFIX = "turn:"
#: Seconds after which a copy that waits asks again. Needed only if an event before it was lost.
ASK_AGAIN = 300.0
#: Seconds after which the clock of any worker sends the copy whose turn has come, unless that was done at once.
CALL_GRACE = 2.0
#: Seconds beyond two leases for which a run has the turn without being renewed.
RUNNING = 60.0
#: Seconds for which an event has the turn whose copy was sent to its queue.
CALLED = 3600.0
#: The same for an event whose copy has come, and has not asked yet: it is in a worker.
ASKED = 600.0
#: Seconds beyond the wait for a retry for which its event has the turn.
AWAITED = 3600.0


def copy_id(token: str, key: str) -> str:
    """The schedule id of a copy that waits for its turn, of the delivery with this token."""
    return f"{TURN_PREFIX}{token}/{key}"


def key_in(schedule_id: str) -> str:
    """The key of the series, in an id that `copy_id` has made."""
    return schedule_id.partition("/")[2]


class TurnVerdict(StrEnum):
    """The answer to a copy that asks for its turn."""

    #: It has the turn.
    GO = "go"
    #: It waits in the schedule. The copy can be acked.
    WAIT = "wait"
    #: The event is finished.
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn of one event in its series."""

    handler: str
    #: The key of the series.
    key: str
    #: The unit of the event: see `choreo.store.claims`.
    unit: str
    #: When the event was announced, in microseconds since 1970. The series is ordered by it, then by arrival.
    time: int = 0
    #: Unique to the delivery.
    token: str = ""


@dataclass(slots=True)
class TurnResult:
    """The answer to `Turns.take_turn`."""

    verdict: TurnVerdict
    #: Messages that the caller must send, and then report as `sent`: id → message.
    called: Mapping[str, Message] = field(default_factory=dict)


class Turns(Protocol):
    """The series of each handler with a ``sequential_by``. Every method is one atomic decision."""

    def enter_series(self, turn: Turn) -> None:
        """Note that an event has come, so that it has its place before those that come later."""

    def take_turn(self, turn: Turn, message: Message) -> TurnResult:
        """Take the turn, or keep the event in the schedule as ``message`` until it comes."""

    def renew_turn(self, turn: Turn) -> bool:
        """Prolong the turn of a run. False when another event has it."""

    def end_turn(self, turn: Turn, wait: float | None = None) -> Mapping[str, Message]:
        """
        End the turn of an event that is finished. Returns messages as `TurnResult.called`.

        An event that is not finished keeps its turn for ``wait`` seconds and `AWAITED`. With None it gives it up, too,
        and comes last when it comes again.
        """

    def series(self, handler: str, key: str) -> Sequence[str]:
        """The units of a series in their order. The first one has the turn, or has it next."""
