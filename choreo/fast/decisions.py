"""The fused store for one delivery: it asks the store less, and does not wait for the answer to a commit."""

import logging

from choreo.broker.redis.receipt import Receipt
from choreo.broker.workload import is_stopping
from choreo.delivery.delivery import log_too_late
from choreo.delivery.ports import PublisherPort
from choreo.errors import StoreError
from choreo.events.envelope import Envelope
from choreo.fast.commits import Commit, Commits, Fate, Question
from choreo.fast.fused_store import FusedStore
from choreo.store.claims import Claim, ClaimResult, CommitResult, Outcome, Settlement, Verdict
from choreo.store.joins import Arrival

logger = logging.getLogger(__name__)

#: The answer to a claim that was made when the message was taken.
_FIRST = ClaimResult(Verdict.RUN, deliveries=1)
_SENT = CommitResult(Outcome.OK)


class FastDecisions:
    """
    Makes the decisions of one delivery in place of the store: see `choreo.delivery.ports.Decisions`.

    - `begin` asks nothing if the message was claimed when it was taken, and that claim certainly still holds.
    - `arrive` uses the answer to a question that was asked ahead, if there is one.
    - `commit` of a success is sent ahead on ``commits`` and answers OK at once. `_hear` gets the real answer.

    Without ``commits`` every decision waits for the store. Deliveries made after the worker began to stop send nothing
    ahead. Earlier ones may; the channel waits for their answers before it ends. The methods raise `StoreError`, as the
    store's do. ``event`` is named in the log.
    """

    __slots__ = ("_apart", "_asked", "_commits", "_event", "_publisher", "_receipt", "_store")

    def __init__(
        self,
        store: FusedStore,
        publisher: PublisherPort,
        receipt: Receipt,
        commits: Commits | None,
        event: Envelope | None = None,
        *,
        apart: bool = False,
    ) -> None:
        """``apart``: other deliveries come between begin and commit, or another thread commits."""
        self._apart = apart
        self._store, self._publisher, self._receipt = store, publisher, receipt
        self._commits = None if is_stopping() else commits
        self._asked: Question | None = None
        self._event = event

    def begin(self, claim: Claim) -> ClaimResult:
        """Claim a unit. Asks the store unless the message was claimed when it was taken and the claim still holds."""
        if self._receipt.holds(claim.unit, claim.attempt) and not is_stopping():
            return self._about_to_run(_FIRST)
        result = self._ask(self._commits, self._store.beginning(claim)) if self._commits is not None else None
        return self._about_to_run(result or self._store.begin(claim))

    def arrive(self, claim: Claim, arrival: Arrival) -> ClaimResult:
        """Record one part of a join, and claim the join if it is complete: by the answer asked ahead, if it holds."""
        result = self._answer_ahead(arrival) if self._asked else None
        if result is None and self._commits is not None:
            result = self._ask(self._commits, self._store.arriving(claim, arrival))
        return self._about_to_run(result or self._store.arrive(claim, arrival))

    def commit(self, claim: Claim, settlement: Settlement) -> CommitResult:
        """
        Settle a claim.

        A success (done, without a dead letter) is sent ahead if possible: OK then means sent, not yet committed. If
        the store refuses it, the event is given back to its queue. Every other settlement waits for the store.
        """
        commits, store = self._commits, self._store
        if commits is not None and settlement.done and settlement.letter is None:
            if self._apart:
                commits.begin(alone=self._receipt.redelivered)

            def on_answer(answer: object, repeated: bool) -> Fate:
                return self._hear(claim, store.commit_result_of(answer, settlement, repeated))

            if commits.send(Commit(claim.token, store.header(claim), store.commit_args(claim, settlement), on_answer)):
                return _SENT
        return store.commit(claim, settlement)

    def ask_ahead(self, claim: Claim, arrival: Arrival) -> bool:
        """
        Ask the question of `arrive` ahead; `arrive` reads the answer. It goes out with the next `Commits.flush`.

        False if nothing can be asked ahead now.
        """
        if self._commits is None:
            return False
        question = self._store.arriving(claim, arrival, ahead=True)
        if not self._commits.ask_ahead(question):
            return False
        self._asked = question
        return True

    def _ask(self, commits: Commits, question: Question) -> ClaimResult | None:
        """
        Ask over the connection of the commits, which saves a round trip if commits wait to be sent.

        None if there is no answer; the caller then asks over the store's connection, which tries more than once.
        """
        answer = commits.ask(question.script, question.keys, question.args)
        return None if answer is None else self._store.claim_result_of(answer)

    def _answer_ahead(self, arrival: Arrival) -> ClaimResult | None:
        """The answer to the question that was asked ahead. None if there is none, or it may no longer hold."""
        question, self._asked = self._asked, None
        if question is None or self._commits is None:
            return None
        answer = self._commits.answer(question)
        result = None if answer is None else self._store.claim_result_of(answer)
        if stopping := is_stopping():
            # The claim may have been given back. From now on nothing is sent ahead.
            self._commits = None
        if result is None:
            # The store may have recorded the part although its answer is lost. A second record is no duplicate.
            arrival.may_be_repeated = True
            return None
        if result.verdict in (Verdict.WAIT, Verdict.DONE):
            return result
        # BUSY may be outdated: the claim may have been this worker's own, for the part before, and settled since.
        holds = result.verdict is not Verdict.BUSY and self._receipt.is_certain
        return result if holds and not stopping else None

    def _about_to_run(self, result: ClaimResult) -> ClaimResult:
        if result.verdict is Verdict.RUN and self._commits is not None:
            self._commits.begin(alone=self._receipt.redelivered)
        return result

    def _hear(self, claim: Claim, committed: CommitResult | StoreError) -> Fate:
        """Handle the answer to a commit that was sent ahead, and return the fate of the delivered copy."""
        if isinstance(committed, StoreError):
            # The log has told of a success already, when the commit was sent.
            text = "%s is not done after all, its commit failed: %s; it goes back to its queue"
            logger.error(text, self._what(claim), committed)
            return Fate.BACK
        if committed.outcome is Outcome.OK:
            if committed.unheard:
                self._publisher.note_unheard(committed.unheard)
            return Fate.GONE
        log_too_late(self._what(claim), claim, committed)
        return Fate.ACK

    def _what(self, claim: Claim) -> str:
        return f"{claim.handler}({self._event or claim.unit})"
