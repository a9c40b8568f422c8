"""
Named points at which a worker dies, from the outside: nothing in choreo knows of them.

The points of a success, in the order in which a delivery passes them:

    after begin      the claim is recorded, the handler has not begun
    after handler    the handler has returned, nothing is committed
    after commit     the outcome is recorded, its events are not sent
    after publish    they are sent, and the outbox does not know it yet
    before ack       all is done, but the broker does not know it yet

And the others:

    before retry     the handler has failed, and nothing is recorded
    after retry      the next attempt is recorded, the failed one is not acked
    before letter    the handler has failed for good, and nothing is recorded
    after letter     the dead letter is recorded, its copy is not acked
    in replay        the replayed copy's handler has returned, nothing is committed
    after postpone   the copy of a busy unit is in the schedule, and not acked
    after wait       a part of a join is recorded, and not acked
    after relay      the clock has sent what was due, and the schedule does not know it yet

In the fast lane behind RabbitMQ, which claims and commits several events together (`GROUP_POINTS`):

    after claims     the claims of several events are recorded, no handler has begun
    after record     the commits of several events are recorded, their messages are not acked
    after ack        the acks are written, their events are not published
    after announce   their events are published, and the outbox does not know it yet

Where a dead letter is needed for that, the handler refuses the order until that is replayed.

CHAOS_CRASH says who dies where and how often: `payment.charge_customer|1=after begin:1,2=after commit:2` kills the
process that handles order 1, once, and the one that handles order 2, and then the one that gets it next. Several
points of one order are joined by a plus sign. The deaths are counted in files, since whoever dies remembers nothing.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

from choreo import PermanentFailure, Service
from choreo.broker.publisher import Publisher
from choreo.delivery.clock import Clock
from choreo.delivery.delivery import Delivery
from choreo.delivery.join import JoinDelivery  # noqa: F401 - its methods are wrapped as well
from choreo.events.message import Message
from choreo.fast.announcer import Announcer
from choreo.fast.claim_group import ClaimGroup
from choreo.fast.commit_group import Commit, CommitGroup
from choreo.fast.decisions import FastDecisions
from choreo.fast.rabbit_decisions import RabbitDecisions
from choreo.store import Claim, CommitResult, Settlement, Verdict
from choreo.store.redis import RedisStore
from tests.chaos.services import book

#: On the way of a delivery that succeeds.
POINTS = ("after begin", "after handler", "after commit", "after publish", "before ack")
#: Beside these, where events are handled together.
GROUP_POINTS = ("after claims", "after record", "after ack", "after announce")
#: Those that need a dead letter.
BURIED = ("before letter", "after letter", "in replay")

Committing = RedisStore | FastDecisions | RabbitDecisions
Deaths = Mapping[str, Mapping[str, int]]


def deaths(plan: str) -> tuple[str, Deaths]:
    """The handler whose workers die, and for each order where and how often."""
    handler, _, entries = plan.partition("|")
    found: dict[str, dict[str, int]] = {}
    for number, _, points in (entry.partition("=") for entry in entries.split(",") if entry):
        pairs = (point.partition(":") for point in points.split("+"))
        found[f"ORD-{number}"] = {point: int(times) for point, _, times in pairs}
    return handler, found


class Trap:
    """Kills the process at the point that is planned for the order in hand."""

    def __init__(self, handler: str, deaths: Deaths) -> None:
        self._handler = handler
        self._deaths = deaths
        self._here = threading.local()
        #: Handler and order of each commit of the group that is being sent.
        self._group: list[tuple[str, str]] = []

    def enter(self, delivery: Delivery) -> None:
        """From now on this thread works on this delivery."""
        self._here.delivery = delivery

    def leave(self) -> None:
        self.spring("before ack")
        self._here.delivery = None

    @property
    def subject(self) -> str:
        """The order in hand, if it is this handler that has it."""
        delivery = getattr(self._here, "delivery", None)
        mine = delivery is not None and delivery.subscription.name == self._handler
        return str(delivery.envelope.subject) if mine else ""

    def spring(self, point: str) -> None:
        """Die here, if this is the place."""
        self.spring_for(self.subject, point)

    def spring_for(self, subject: str, point: str) -> None:
        if _is_first(subject, point, self._deaths.get(subject, {}).get(point, 0)):
            book.write(self._handler.partition(".")[0], "crash", subject=subject, point=point)
            os.kill(os.getpid(), signal.SIGKILL)

    # -- what happens besides success ------------------------------------------------------------------------------

    def handled(self) -> None:
        """The handler has returned."""
        self.spring("after handler")
        if _letter(self.subject).exists():
            self.spring("in replay")

    def refuse(self) -> None:
        """Fail for good, until the dead letter is replayed, if one is planned."""
        if not _letter(self.subject).exists() and any(p in self._deaths.get(self.subject, {}) for p in BURIED):
            raise PermanentFailure("the plan wants a dead letter")

    def commit(
        self, original: Callable[..., CommitResult], store: Committing, claim: Claim, what: Settlement
    ) -> CommitResult:
        kind = "commit"
        # What cancels a join or runs out its time is no attempt; its retry is known by its name.
        if not what.done and (claim.attempt or any(entry.id.startswith("retry:") for entry in what.scheduled)):
            kind = "retry"
        elif what.letter:
            kind = "letter"
        self.spring(f"before {kind}")
        committed = original(store, claim, what)
        self.spring(f"after {kind}")
        return committed

    # -- events that are handled together ----------------------------------------------------------------------------

    def each(self, handler: str, subjects: Iterable[str], point: str) -> None:
        """These orders have passed a point together."""
        if handler == self._handler:
            for subject in subjects:
                self.spring_for(subject, point)

    def claim_together(self, original: Callable[..., None], group: ClaimGroup, asked: Any) -> None:
        original(group, asked)
        for delivery, _ in asked:
            self.each(delivery.subscription.name, [str(delivery.envelope.subject)], "after claims")

    def send_together(self, original: Callable[..., None], group: CommitGroup, commits: list[Commit]) -> None:
        self._group = [(commit.claim.handler, str(commit.event.subject)) for commit in commits]
        original(group, commits)
        for handler, subject in self._group:
            self.each(handler, [subject], "after ack")

    def write_acks(self, original: Callable[..., None], group: CommitGroup, commits: list[Commit]) -> None:
        for handler, subject in self._group:
            self.each(handler, [subject], "after record")
        original(group, commits)

    def announce(self, original: Callable[..., None], announcer: Announcer, entries: Any) -> None:
        original(announcer, entries)
        for handler, _, message in entries:
            self.each(handler, [_subject_of(message)], "after announce")

    def publish(self, original: Callable[..., None], publisher: Publisher, messages: Iterable[Message]) -> None:
        messages = list(messages)
        original(publisher, messages)
        self.spring("after publish")
        # Several deliveries' events may be sent together, outside of all of them.
        for message in messages:
            if message.exchange and message.headers.get("origin") == self._handler.partition(".")[0]:
                self.spring_for(_subject_of(message), "after publish")

    def relayed(self, messages: list[Message]) -> None:
        """The clock has sent these."""
        for message in messages:
            if message.routing_key.endswith(f".{self._handler}"):
                self.spring_for(_subject_of(message), "after relay")


def arm(app: Service) -> None:
    """Set the trap, if CHAOS_CRASH plans one for this service."""
    handler, planned = deaths(os.environ.get("CHAOS_CRASH", ""))
    if not planned or handler.partition(".")[0] != app.service_name:
        return
    trap = Trap(handler, planned)
    points = {Verdict.RUN: "after begin", Verdict.WAIT: "after wait"}

    _around(Delivery, "live", before=trap.enter, after=lambda _: trap.leave())
    _around(Delivery, "begin", after=lambda result: result.verdict in points and trap.spring(points[result.verdict]))
    _around(Delivery, "react", before=lambda _: trap.refuse())
    _around(Delivery, "_succeeded", before=lambda _: trap.handled())
    _around(Delivery, "postpone", after=lambda _: trap.spring("after postpone"))
    for cls, name, method in (
        (Publisher, "send", trap.publish),
        (ClaimGroup, "_ask", trap.claim_together),
        (CommitGroup, "_send", trap.send_together),
        (CommitGroup, "_write_acks", trap.write_acks),
        (Announcer, "_send", trap.announce),
    ):
        _wrap(cls, name, partial(_instead, method))
    # In the fast lane a success need not reach the store's own commit.
    for committing in (RedisStore, FastDecisions, RabbitDecisions):
        _wrap(committing, "commit", lambda original: lambda *args: trap.commit(original, *args))
    _wrap(Clock, "_send", lambda send: lambda clock, name, due: _then(send(clock, name, due), trap.relayed, due))


def _instead(method: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """A method that calls ``method`` with the original and its own arguments."""
    return lambda *args: method(original, *args)


def _then(answer: Any, call: Callable[[list[Message]], None], due: list[tuple[str, Message]]) -> Any:
    call([message for _, message in due])
    return answer


def _subject_of(message: Message) -> str:
    (event,), *_ = json.loads(message.body)
    return str((json.loads(event) if isinstance(event, str) else event)["subject"])


def _letter(subject: str) -> Path:
    """Is there once the dead letter of this order is about to be replayed: see `faults.replay`."""
    return Path(os.environ["CHAOS_BOOKS"], f"{subject}.letter")


def _is_first(subject: str, point: str, times: int) -> bool:
    """Whether one of the deaths of this order has not been died yet; only one process can make its file."""
    for death in range(times):
        path = Path(os.environ["CHAOS_BOOKS"], f"{subject}.{point.replace(' ', '-')}-{death}")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            continue
        return True
    return False


def _around(
    cls: type, name: str, *, before: Callable[[Any], Any] | None = None, after: Callable[[Any], Any] | None = None
) -> None:
    """Call ``before`` with the object and ``after`` with the answer, around a method of a class and its subclasses."""

    def wrapped(original: Any) -> Any:
        @wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if before:
                before(self)
            answer = original(self, *args, **kwargs)
            if after:
                after(answer)
            return answer

        return call

    _wrap(cls, name, wrapped)


def _wrap(cls: type, name: str, wrapped: Callable[[Any], Any]) -> None:
    """Put what ``wrapped`` makes of a method in its place, in a class and in its subclasses."""
    assert owners(cls, name), f"{cls.__name__} has no {name} any more: the crash point has to follow it"
    for owner in owners(cls, name):
        setattr(owner, name, wrapped(vars(owner)[name]))


def owners(cls: type, name: str) -> list[type]:
    """A class and those of its subclasses that define a method of this name themselves."""
    return [owner for owner in (cls, *cls.__subclasses__()) if name in vars(owner)]
