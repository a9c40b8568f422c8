"""The fused store in the hands of one delivery: fewer questions, and commits that do not wait for their answers."""

import logging

from choreo.broker.redis.receipt import Receipt
from choreo.broker.workload import is_stopping
from choreo.delivery.delivery import log_too_late
from choreo.delivery.ports import Sends
from choreo.errors import StoreError
from choreo.fast.commits import Commit, Commits, Fate, Question
from choreo.fast.fused_store import FusedStore
from choreo.store.claims import Begun, Claim, Committed, Outcome, Settlement, Verdict
from choreo.store.joins import Arrival

logger = logging.getLogger(__name__)

_SENT = Committed(Outcome.OK)


class HeldStore:
    """
    Decides for one delivery, in place of the store: see `choreo.delivery.ports.Decisions`.

    - `begin` asks nothing if the message was claimed when it was taken, and the claim certainly holds.
    - `arrive` uses the answer to a question that was asked ahead.
    - `commit` of a success is sent on ``commits``, if there is one, and counts as done. `_hear` gets the answer.

    ``what`` names the delivery in the log.
    """

    __slots__ = ("_asked", "_commits", "_publisher", "_receipt", "_store", "what")

    def __init__(
        self, store: FusedStore, publisher: Sends, receipt: Receipt, commits: Commits | None, what: str = ""
    ) -> None:
        self._store, self._publisher, self._receipt = store, publisher, receipt
        self._commits = None if is_stopping() else commits
        self._asked: Question | None = None
        self.what = what

    def begin(self, claim: Claim) -> Begun:
        """Claim a unit, without asking if the message was claimed when it was taken."""
        if self._receipt.holds(claim.unit, claim.attempt) and not is_stopping():
            return self._about_to_run(Begun(Verdict.RUN, deliveries=1))
        return self._about_to_run(self._ask(self._store.beginning(claim)) or self._store.begin(claim))

    def arrive(self, claim: Claim, arrival: Arrival) -> Begun:
        """Record one part of a join, and claim the join if it is complete."""
        begun = self._answer_ahead(arrival) if self._asked else None
        if begun is None:
            begun = self._ask(self._store.arriving(claim, arrival)) or self._store.arrive(claim, arrival)
        return self._about_to_run(begun)

    def commit(self, claim: Claim, settlement: Settlement) -> Committed:
        """Settle a claim. A success may be sent ahead: then the answer is OK, and `_hear` gets the real one."""
        commits, store = self._commits, self._store
        if commits is not None and settlement.done and settlement.letter is None:

            def told(answer: object, again: bool) -> Fate:
                return self._hear(claim, store.fate(answer, settlement, again))

            if commits.send(Commit(claim.token, store.header(claim), store.commit_args(claim, settlement), told)):
                return _SENT
        return store.commit(claim, settlement)

    def ask_ahead(self, claim: Claim, arrival: Arrival) -> bool:
        """Ask what `arrive` will ask, without waiting for the answer. False if that cannot be done now."""
        if self._commits is None:
            return False
        question = self._store.arriving(claim, arrival, ahead=True)
        if not self._commits.ask_ahead(question):
            return False
        self._asked = question
        return True

    def _ask(self, question: Question) -> Begun | None:
        """Ask on the line of the commits; None if that cannot tell. The store's own connection is more patient."""
        if self._commits is None:
            return None
        answer = self._commits.ask(question.script, question.keys, question.args)
        return None if answer is None else self._store.answered(answer)

    def _answer_ahead(self, arrival: Arrival) -> Begun | None:
        """The answer to the question that was asked ahead, if it still holds."""
        question, self._asked = self._asked, None
        if question is None or self._commits is None:
            return None
        answer = self._commits.answer(question)
        begun = None if answer is None else self._store.answered(answer)
        if stopping := is_stopping():
            # The claim may have been given back, and nothing is sent ahead any more.
            self._commits = None
        if begun is None:
            # The question may have been carried out, although there is no answer.
            arrival.again = True
            return None
        if begun.verdict in (Verdict.WAIT, Verdict.DONE):
            return begun
        # BUSY may mean that this worker itself was at it, a moment ago.
        holds = begun.verdict is not Verdict.BUSY and self._receipt.is_certain
        return begun if holds and not stopping else None

    def _about_to_run(self, begun: Begun) -> Begun:
        if begun.verdict is Verdict.RUN and self._commits is not None:
            self._commits.begin(alone=self._receipt.redelivered)
        return begun

    def _hear(self, claim: Claim, committed: Committed | StoreError) -> Fate:
        """Take the answer to a commit that was sent ahead."""
        what = self.what or f"{claim.handler}({claim.unit})"
        if isinstance(committed, StoreError):
            logger.error("%s: %s; it goes back to its queue", what, committed)
            return Fate.BACK
        if committed.outcome is Outcome.OK:
            if committed.unheard:
                self._publisher.note_unheard(committed.unheard)
            return Fate.GONE
        log_too_late(what, claim, committed)
        return Fate.ACK
