"""
The life of a batch: several deliveries to one handler, which is called once with all their events.

::

    begin all ─> the handler, with a list ──> commit all: done, with the events that they announce ──> ack each
                          └─> it fails: the halves run apart, then their halves, until one event fails alone
                                  └─> that one is retried, or becomes a dead letter; the others are done

*Each event is claimed on its own.* One that is done before is left out, and so is a second copy of one. What `begin`
answers for each, and what becomes of it after that, is the work of its own `MemberDelivery`, as for any handler.

*Committed as one.* A commit of the store settles every member that the handler has succeeded with, and keeps or sends
what leaves with them, in one step. So if the worker dies, either all of them are done or none. A member whose claim was
lost meanwhile is refused, and does not hold up the others.

*Isolation.* A failure of several events is no attempt of any of them: nobody knows which one is to blame. So the
handler is called again at once, with the first half of them, then with the other. Only an event that fails alone has
failed: its attempt counts, and its retry runs alone. The price of one such event in a batch of 100 is 14 more calls. If
two events fail alone in a row, all that are left are called one by one, since most likely no half would succeed. If the
breaker opens, or the soft time limit of the run is over, the handler is not called again.

*Alone from the start* runs an event that was delivered or attempted before. It may be the one that ended the worker of
its batch.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from time import monotonic
from typing import Any

from choreo import event_loop
from choreo.declare.context import Context, put_in_batch
from choreo.declare.members import Members
from choreo.declare.reaction import Announcing
from choreo.delivery import run_log
from choreo.delivery.delivery import Delivery, Parts
from choreo.delivery.failure import MOST_LOGGED, cut, is_stop
from choreo.errors import ChoreoError, HandlerTimeoutError, StoreError
from choreo.events.envelope import Envelope
from choreo.events.ids import task_id
from choreo.events.message import Message
from choreo.store.claims import ClaimResult, CommitResult, Outcome, Settlement, Verdict
from choreo.store.runs import Entry, Result

logger = logging.getLogger(__name__)

#: So many events must fail alone, one after the other, before all that are left are called one by one.
IN_A_ROW = 2


class NotAloneError(ChoreoError):
    """The event must run alone, in a run of its own: it may be the one that ends its worker, or takes too long."""


class MemberDelivery(Delivery):
    """One event of a batch handler. Alone it is a batch of one."""

    #: True while it is handled together with others.
    is_in_batch = False

    def react(self, parts: Parts, context: Context) -> Announcing:  # noqa: ARG002
        """Call the handler with a list of this event."""
        return self.subscription.reaction([[self.envelope]], context)

    def _returned(self, parts: Parts, announced: list[Envelope], context: Context) -> str:
        if context.batch is not None and context.batch.failures:
            return self._failed(parts, next(iter(context.batch.failures.values())))
        return super()._returned(parts, announced, context)

    def context(self, parts: Parts) -> Context:
        """The context of a batch of one."""
        return put_in_batch(super().context(parts), Members({self.envelope: self.idempotency_key}, self.envelope))

    def begin_run(self) -> None:
        """Note that the handler is being called."""
        self._began = self.ports.now(), monotonic()

    def parts(self) -> Parts:
        """Its event, as `Delivery` passes it on."""
        return {self.envelope.type: self.envelope}

    def success(self, announced: list[Envelope], context: Context) -> Settlement:
        """The records of a success in a batch. Raises as `Delivery` does for events that cannot leave."""
        self.is_in_batch = True
        return self._success(announced, context)

    def run_alone(self) -> str:
        """Call the handler with this event alone. Returns and raises as `Delivery.live` does."""
        self.is_in_batch = False
        return self._run(self.parts())

    def fail(self, error: BaseException) -> str:
        """Settle the failure of this event. Returns and raises as `Delivery.live` does."""
        self.is_in_batch = False
        return self._failed(self.parts(), error)

    def go_on(self, result: ClaimResult) -> str:
        """Go on with the answer of `begin`, if that is not to call the handler. Returns and raises as `live` does."""
        parts = self.started(result)
        return parts if isinstance(parts, str) else self._run(parts)

    def send(self, messages: Mapping[str, Message]) -> None:
        """Send messages that are in the outbox. If that fails, the clock of a worker sends them."""
        self._send_now(messages)

    def terminated(self, error: event_loop.RunTerminatedError) -> str:
        """Make a dead letter of this event, whose run an operator has ended."""
        self.is_in_batch = False
        return self._raised(self.parts(), error)

    def stand_aside(self, error: BaseException) -> str | None:
        """
        Put the event off without an attempt if the breaker is open. None: it is closed, and nothing was done.

        Raises `RetryScheduledError` if it was put off.
        """
        wait = self._held_for(error)
        return None if wait is None else self._hold(error, wait)

    def _recorded(self, ended: Result, announced: Sequence[Envelope] = (), detail: str = "") -> Sequence[Entry]:
        # The log has one line for the batch, and needs no `Run` of each member.
        recording = self.ports.store.recording
        if self.is_in_batch and recording and recording.is_plain and (entry := self.plain_entry(ended, announced)):
            return (entry,)
        return super()._recorded(ended, announced, detail)


class BatchRun:
    """
    Deliveries to one handler that run together. `live` runs them; then `outcome_of` returns or raises that of each.

    ``members`` are at least one.
    """

    def __init__(self, members: Sequence[MemberDelivery]) -> None:
        self._members = list(members)
        self._ports, self._subscription = members[0].ports, members[0].subscription
        #: The outcome of each member in words, or its error.
        self._ends: dict[MemberDelivery, str | BaseException] = {}

    def __str__(self) -> str:
        return _named(self._subscription.name, self._members)

    def outcome_of(self, member: MemberDelivery) -> str:
        """The outcome of a member. Raises what `Delivery.live` raises for it."""
        end = self._ends[member]
        if isinstance(end, BaseException):
            raise end
        return end

    def live(self) -> None:
        """
        Handle all members, so that each has an outcome.

        Raises only what stops the worker: then the members without an outcome must be delivered again.
        """
        first: dict[str, MemberDelivery] = {}
        for member in self._members:
            first.setdefault(member.claim.unit, member)
        together: list[MemberDelivery] = []
        begun_before: list[MemberDelivery] = []
        for member, result in self._begin(list(first.values())):
            if result.verdict is not Verdict.RUN:
                self._settle(member, lambda member=member, result=result: member.go_on(result))  # type: ignore[misc]
            elif result.deliveries < 2:
                together.append(member)
            else:
                begun_before.append(member)
        # One that never finished may have ended its worker.
        self._send_back(begun_before, "it was begun before")
        if together:
            self._handle(together)
        for member in self._members:  # second copies of an event
            if member not in self._ends:
                self._settle(member, member.live)

    def _begin(self, members: Sequence[MemberDelivery]) -> list[tuple[MemberDelivery, ClaimResult]]:
        store = self._ports.store
        asked = [member for member in members if member.decisions is store]
        answers = dict(zip(asked, store.begin_all([(member.claim, None) for member in asked]), strict=True))
        begun = []
        for member in members:
            answer = answers[member] if member in answers else _begun(member)
            if isinstance(answer, StoreError):
                self._ends[member] = answer
            else:
                begun.append((member, answer))
        return begun

    # -- running -------------------------------------------------------------------------------------------------------

    def _handle(self, members: list[MemberDelivery]) -> None:
        """Call the handler until each of these has an outcome."""
        groups, alone_in_a_row = [members], 0
        while groups:
            group = groups.pop()
            if len(group) > 1:
                error = self._attempt(group)
                if error is None:
                    alone_in_a_row = 0
                elif isinstance(error, event_loop.RunTerminatedError) or _is_time_over(error):
                    self._end([member for some in [group, *groups] for member in some], error)
                    return
                else:
                    groups += _halves(group)
                continue
            (member,) = group
            self._settle(member, member.run_alone)
            alone_in_a_row = alone_in_a_row + 1 if isinstance(self._ends[member], BaseException) else 0
            error = _cause_in(self._ends[member])
            if member.is_held and error is not None:
                groups = self._stand_aside(groups, error)
            if alone_in_a_row >= IN_A_ROW:
                groups = [[other] for some in groups for other in reversed(some)]

    def _attempt(self, group: list[MemberDelivery]) -> BaseException | None:
        """Call the handler with these, and commit those that it has succeeded with. Returns the error if it failed."""
        for member in group:
            member.begin_run()
        try:
            with ExitStack() as leases:
                for member in group:
                    leases.enter_context(self._ports.leases.kept(member.claim))
                context, members = self._context(group)
                began = monotonic()
                announced = self._subscription.reaction([[member.envelope for member in group]], context)
                if not isinstance(announced, list):
                    announced = group[0]._wait_for(announced)
            took = monotonic() - began
            done = [member for member in group if member.envelope.identity not in members.failures]
            settlements, shared = _settlements(done, announced, context, members)
        except StoreError as error:
            self._ends |= dict.fromkeys(group, error)  # the handler has not failed: nothing is recorded
            return None
        except BaseException as error:  # any error of a handler is a failure of that handler, not of its worker
            if is_stop(error):
                raise
            self._log_failure(group, error)
            return error
        if done:
            self._commit(done, settlements, shared, announced, took)
        for member in group:
            if given := members.failures.get(member.envelope.identity):
                self._settle(member, lambda member=member, given=given: member.fail(given))  # type: ignore[misc]
        return None

    def _context(self, group: Sequence[MemberDelivery]) -> tuple[Context, Members]:
        last = max(reversed(group), key=lambda member: member.envelope.time)  # of equal ones, that which came last
        subjects = {member.envelope.subject for member in group}
        keys = {member.envelope: member.idempotency_key for member in group}
        members = Members(keys, last.envelope)
        context = last._context(
            last.envelope,
            about=subjects.pop() if len(subjects) == 1 else "",
            key="+".join(sorted(keys.values())),
            events=tuple(keys),
        )
        return put_in_batch(context, members), members

    def _commit(
        self,
        done: Sequence[MemberDelivery],
        settlements: Sequence[Settlement],
        shared: Settlement,
        announced: Sequence[Envelope],
        took: float,
    ) -> None:
        commits = [(member.claim, settlement) for member, settlement in zip(done, settlements, strict=True)]
        try:
            answers = self._ports.store.commit_as_one(commits, shared)
        except StoreError as error:
            self._ends |= dict.fromkeys(done, error)
            return
        in_outbox = {key: message for answer in answers for key, message in answer.unsent.items()}
        places = {f"event:{event.id}": place for place, event in enumerate(announced)}
        unsent = dict(sorted(in_outbox.items(), key=lambda entry: places.get(entry[0], 0)))
        for member, answer in zip(done, answers, strict=True):
            self._settle(member, lambda member=member, answer=answer: _heard(member, answer))  # type: ignore[misc]
        if unsent:
            done[-1].send(unsent)
        kept = [member for member, answer in zip(done, answers, strict=True) if answer.outcome is Outcome.OK]
        if kept and run_log.logger.isEnabledFor(logging.INFO):
            self._log_success(kept, announced, took)

    # -- failing -------------------------------------------------------------------------------------------------------

    def _settle(self, member: MemberDelivery, step: Callable[[], str]) -> None:
        """Take a step with one member, whose outcome is that of the step."""
        try:
            self._ends[member] = step()
        except BaseException as error:
            if is_stop(error):
                raise
            self._ends[member] = error

    def _stand_aside(self, groups: list[list[MemberDelivery]], error: BaseException) -> list[list[MemberDelivery]]:
        """Put all that are left off, as the breaker is open. Returns those that must run after all, each alone."""
        left: list[list[MemberDelivery]] = []
        for member in [member for group in groups for member in group]:

            def step(member: MemberDelivery = member) -> str:
                if member.stand_aside(error) is None:
                    left.append([member])
                return ""

            self._settle(member, step)
        return left

    def _end(self, left: Sequence[MemberDelivery], error: BaseException) -> None:
        """Run those that are left again, each alone. The event whose run an operator has ended is a dead letter."""
        if not isinstance(error, event_loop.RunTerminatedError):
            self._send_back(left, "the time limit of its batch is over", error)
            return
        name, others = self._subscription.name, []
        for member in left:
            if task_id(member.envelope.occasion, name) == error.key:
                self._settle(member, lambda member=member: member.terminated(error))  # type: ignore[misc]
            else:
                others.append(member)
        self._send_back(others, "the run of another event of its batch was ended", error)

    def _send_back(self, members: Sequence[MemberDelivery], why: str, cause: BaseException | None = None) -> None:
        """Let the messages of these return to their queue. They come again, and run alone. No beginning counts."""
        if not members:
            return
        for member in members:
            self._ends[member] = NotAloneError(f"{member}: {why}; it runs again, alone")
            self._ends[member].__cause__ = cause  # type: ignore[union-attr]
        try:
            self._ports.store.undo_begin([member.claim for member in members])
        except StoreError as error:
            logger.warning("%s: some events begin later than they should: %s", self, error)

    # -- the log -------------------------------------------------------------------------------------------------------

    def _log_success(self, done: Sequence[MemberDelivery], announced: Sequence[Envelope], took: float) -> None:
        waited = max(member._times()[0] for member in done)
        what = _named(self._subscription.name, done)
        kinds = [one.type for one in announced]
        about: dict[str, Any] = {
            "service": self._ports.service_name,
            "handler": self._subscription.name,
            "batch": len(done),
            "outcome": str(Result.DONE),
            "waited": round(waited, 6),
            "took": round(took, 6),
            "worker": self._ports.node,
            "announced": list(dict.fromkeys(kinds)),
        }
        run_log.log_batch(what, kinds, took, waited, about)

    def _log_failure(self, group: Sequence[MemberDelivery], error: BaseException) -> None:
        line = cut(group[0]._line_of(error), MOST_LOGGED)
        what = _named(self._subscription.name, group)
        how = "they run again, each alone" if _is_time_over(error) else "its halves run apart"
        logger.warning("%s failed, so %s: %s", what, how, line)


def _begun(member: MemberDelivery) -> ClaimResult | StoreError:
    try:
        return member.begin()
    except StoreError as error:
        return error


def _settlements(
    done: Sequence[MemberDelivery], announced: Sequence[Envelope], context: Context, members: Members
) -> tuple[list[Settlement], Settlement]:
    """The settlement of each member, and that of the events that belong to the batch as a whole."""
    if not done:
        return [], Settlement()
    own: dict[str, list[Envelope]] = {member.envelope.identity: [] for member in done}
    common: list[Envelope] = []
    for event in announced:
        because = members.causes.get(event.id)
        if because is None:
            common.append(event)
        elif because in own:  # else it has failed, and so nothing leaves because of it
            own[because].append(event)
    # The run of the member that is their cause is recorded with them.
    cause = next((member for member in done if member.envelope is context.envelope), done[-1])
    settlements, shared = [], Settlement()
    for member in done:
        caused = own[member.envelope.identity]
        settlement = member.success([*caused, *common] if member is cause else caused, context)
        if member is cause and common:
            settlement, shared = _divided(settlement, {f"event:{event.id}" for event in common})
        settlements.append(settlement)
    return settlements, shared


def _divided(settlement: Settlement, keys: set[str]) -> tuple[Settlement, Settlement]:
    """The settlement without what leaves under these keys, and a settlement with only that."""
    sent = {key: message for key, message in settlement.sent.items() if key not in keys}
    scheduled = [entry for entry in settlement.scheduled if entry.id not in keys]
    shared = Settlement(
        sent={key: message for key, message in settlement.sent.items() if key in keys},
        scheduled=[entry for entry in settlement.scheduled if entry.id in keys],
    )
    return replace(settlement, sent=sent, scheduled=scheduled), shared


def _heard(member: MemberDelivery, answer: CommitResult) -> str:
    return member.heed(replace(answer, unsent={})) or "done"


def _halves(group: list[MemberDelivery]) -> list[list[MemberDelivery]]:
    """The two halves, the second one first: groups are taken from the end."""
    middle = (len(group) + 1) // 2
    return [group[middle:], group[:middle]]


def _cause_in(end: str | BaseException) -> BaseException | None:
    return getattr(end, "error", end) if isinstance(end, BaseException) else None


def _is_time_over(error: BaseException) -> bool:
    """True for Celery's error for a soft time limit, a coroutine's, or one that was raised while it was handled."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, HandlerTimeoutError) or any(
            cls.__name__ == "SoftTimeLimitExceeded" for cls in type(seen).__mro__
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _named(handler: str, members: Sequence[Delivery]) -> str:
    types = sorted({member.envelope.type for member in members})
    return f"{handler}({len(members)} {' and '.join(types) if len(types) < 3 else 'events'})"
