"""The store for one delivery of RabbitMQ in the fast lane: it is asked about several deliveries together."""

import time
from dataclasses import replace

from choreo.broker.rabbitmq.acks import Acks
from choreo.broker.workload import is_stopping
from choreo.delivery.ports import Decisions, Ports
from choreo.errors import StoreError
from choreo.events.envelope import Envelope
from choreo.fast.commit_group import Commit, CommitGroup
from choreo.store.claims import Claim, ClaimResult, CommitResult, Outcome, Settlement, Verdict
from choreo.store.joins import Arrival
from choreo.store.port import Store

#: Seconds for which a claim ahead holds. If the worker dies, other workers wait that long for its unbegun events.
AHEAD_SECONDS = 2.0
#: Seconds after which a handler does not begin on a claim ahead without asking again.
CERTAIN_SECONDS = AHEAD_SECONDS / 2

_SENT = CommitResult(Outcome.OK)


class RabbitDecisions(Decisions):
    """
    Makes the decisions of one delivery in place of the store: see `choreo.delivery.ports.Decisions`.

    - `begin` and `arrive` use the answer to a question that was asked ahead, if there is one that still holds.
    - `commit` of a success joins the ``group``, and answers OK at once. The group gets the real answer.

    Deliveries made after the worker began to stop use neither. ``tag`` is the delivery's on its channel, whose answers
    are ``acks``. The methods raise `StoreError`, as the store's do. ``event`` is named in the log.
    """

    __slots__ = ("_acks", "_ahead", "_ahead_until", "_asked", "_event", "_group", "_ports", "_redelivered", "_tag")

    def __init__(
        self, ports: Ports, group: CommitGroup, tag: int, acks: Acks, event: Envelope, *, redelivered: bool = False
    ) -> None:
        self._ports, self._tag, self._acks = ports, tag, acks
        self._group = None if is_stopping() else group
        self._event, self._redelivered = event, redelivered
        self._ahead: ClaimResult | None = None
        self._ahead_until = 0.0
        self._asked = False

    @property
    def is_together(self) -> bool:
        """True if this delivery may be decided together with others."""
        return self._group is not None

    def claimed(self, claim: Claim, answer: ClaimResult | StoreError, asked: float) -> None:
        """Keep the answer to a question that was asked ahead, at this `time.monotonic`. ``claim`` was asked for."""
        self._asked = True
        if isinstance(answer, ClaimResult):
            self._ahead = answer
            holds = claim.ahead or self._ports.terms.lease.total_seconds()
            self._ahead_until = asked + min(CERTAIN_SECONDS, holds / 2)

    def begin(self, claim: Claim) -> ClaimResult:
        """Claim a unit. Asks the store unless it was asked ahead, and the claim still holds."""
        return self._known(claim) or self._about_to_run(claim, self._asking(claim).begin(claim))

    def arrive(self, claim: Claim, arrival: Arrival) -> ClaimResult:
        """Record one part of a join, and claim the join if it is complete: by the answer asked ahead, if it holds."""
        if known := self._known(claim):
            return known
        if self._asked:
            # The store may have recorded the part, also if its answer is lost. A second record is no duplicate.
            arrival.may_be_repeated = True
        return self._about_to_run(claim, self._asking(claim).arrive(claim, arrival))

    def commit(self, claim: Claim, settlement: Settlement) -> CommitResult:
        """
        Settle a claim.

        A success (done, without a dead letter) joins the group if possible: OK then means added, not yet committed. If
        the store refuses it, the event is given back to its queue. Every other settlement waits for the store.
        """
        group = self._group
        if group is None:
            return self._ports.store.commit(claim, settlement)
        group.end(claim)
        may_wait = settlement.done and settlement.letter is None
        if may_wait and group.add(Commit(self._tag, self._acks, claim, settlement, self._event)):
            return _SENT
        return self._ports.store.commit(claim, settlement)

    def _known(self, claim: Claim) -> ClaimResult | None:
        """The answer that was asked ahead; None if there is none, or it may no longer hold."""
        answer, self._ahead = self._ahead, None
        if answer is None or self._group is None:
            return None
        if answer.verdict in (Verdict.WAIT, Verdict.DONE):
            return answer
        if is_stopping():
            # The claim may have been given back. From now on nothing is done together.
            self._group = None
            return None
        # BUSY may be outdated: the claim may have been this worker's own, for the part before, and settled since.
        if answer.verdict is Verdict.BUSY or time.monotonic() >= self._ahead_until:
            return None
        return self._about_to_run(claim, answer, ahead=True)

    def _asking(self, claim: Claim) -> Store:
        """The store, once it has answered the commits of this unit."""
        if self._group is not None:
            self._group.settle_units((claim,))
        return self._ports.store

    def _about_to_run(self, claim: Claim, result: ClaimResult, *, ahead: bool = False) -> ClaimResult:
        if result.verdict is Verdict.RUN and self._group is not None:
            self._group.begin(claim, alone=self._redelivered, ahead=ahead)
        return result


def ahead_of(claim: Claim) -> Claim:
    """The same claim, made ahead."""
    return replace(claim, ahead=AHEAD_SECONDS)
