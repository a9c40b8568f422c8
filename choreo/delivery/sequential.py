"""One delivery to a handler that handles the events of one key one after another (``sequential_by=``)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from choreo.delivery.delivery import DONE, TOO_LATE, Delivery, Parts, Steps
from choreo.delivery.failure import RetryScheduledError
from choreo.errors import StoreError
from choreo.printing import one_line
from choreo.store.claims import Settlement
from choreo.store.turns import Turn, TurnVerdict

logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Seconds. An event whose attempt was settled before keeps its turn for so long: its retry is on the way.
_SETTLED_BEFORE = 86_400.0


class SequentialDelivery(Delivery):
    """
    Takes the turn of its event before it begins, and ends it when the event is finished.

    ::

        take_turn ─> GO ──> begin ─> ... (see `Delivery`) ──> commit ──> end_turn: the next event is sent ──> ack
             ├─> WAIT ──> the event is in the schedule, until its turn comes ──> ack
             └─> DONE ──> ack

    If the worker dies between the commit and `end_turn`, the message comes again, and the answer is DONE.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.turn = turn_of(self)
        #: True if this delivery was not the one that ran the event, so that it must not give its turn up.
        self._is_beside = False

    def live(self) -> str:
        """As `Delivery.live`, in turn."""
        if waiting := self._waiting():
            return waiting
        with self._in_turn():
            return super().live()

    def steps(self) -> Steps:
        """As `Delivery.steps`, in turn."""
        if waiting := self._waiting():
            return waiting
        with self._in_turn():
            return (yield from super().steps())

    def start(self) -> Parts | str:
        """As `Delivery.start`."""
        started = super().start()
        # The attempt was settled before. If the event is to be tried again, that ends its turn.
        self._is_beside = self._is_beside or started == DONE
        return started

    def _waiting(self) -> str:
        """Ask for the turn. Returns the outcome in words if the event waits for it, else ""."""
        if self.turn is None:
            return ""
        again = self.own_message(self.envelope, retries=self.attempt - 1)
        taken = self.ports.store.take_turn(self.turn, again)
        self._send_now(taken.called)
        if taken.verdict is not TurnVerdict.WAIT:
            self.holds = (*self.holds, self.turn)
            return ""
        self.settled = True
        words = f"it waits for its turn: another event of {one_line(self.turn.key)} is handled first"
        return self._without_run(words, "waiting")

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Context manager: end the turn after the block, if its outcome is recorded."""
        try:
            yield
        except RetryScheduledError as retry:
            self._end_turn(retry.seconds)
            raise
        except BaseException:
            if self.settled:
                self._end_turn()
            raise
        self._end_turn()

    def postpone(self, seconds: float) -> str:
        """Try again when the other worker's lease has run out. Returns the outcome in words."""
        self._is_beside = True
        return super().postpone(seconds)

    def revoke(self, *args: Any) -> str:
        """Make the claimed unit a dead letter, and let the next event go on."""
        words = super().revoke(*args)
        if self.turn is not None:
            self._end_turn()
        return words

    def _commit(self, settlement: Settlement) -> str:
        late = super()._commit(settlement)
        self._is_beside = self._is_beside or late == TOO_LATE
        return late

    def _end_turn(self, wait: float = _SETTLED_BEFORE) -> None:
        """End the turn if the event is finished. Else it keeps it for ``wait`` seconds, or gives it up."""
        turn, sequential = self.turn, self.subscription.sequential
        if turn is None or sequential is None:
            return
        passes = sequential.series.retries_pass and not self._is_beside
        try:
            called = self.ports.store.end_turn(turn, None if passes else wait)
        except StoreError as error:
            # The outcome is recorded. The next event asks again by itself.
            logger.warning("%s: the next event of %s waits for minutes: %s", self, one_line(turn.key), error)
            return
        self._send_now(called)


def turn_of(delivery: Delivery) -> Turn | None:
    """The turn of a delivery; None if its event has no key, and waits for no other."""
    sequential = delivery.subscription.sequential
    key = sequential.key_of(delivery.envelope) if sequential is not None else ""
    if not key:
        return None
    claim, age = delivery.claim, delivery.envelope.time - _EPOCH
    microseconds = (age.days * 86_400 + age.seconds) * 1_000_000 + age.microseconds
    return Turn(claim.handler, key, claim.unit, microseconds, delivery.token)
