"""
The defences of choreo, one at a time switched off: a suite that stays green then would be worth nothing.

CHAOS_SABOTAGE names one. What it does is patched from the outside; see `defences.py` for what has to turn red.
"""

import os
from collections.abc import Callable
from typing import Any

from choreo import Service
from choreo.broker import redis as transport
from choreo.broker.confirms import RabbitLine
from choreo.store import Arrival, Begun, Claim, Committed, Settlement, Verdict
from choreo.store.beside import StoreBesideBroker
from choreo.store.redis import RedisStore
from choreo.worker.delivery import Delivery
from choreo.worker.handler import HandlerTask
from tests.chaos.services.crash import owners

SABOTAGES: dict[str, Callable[[], None]] = {}

Method = Callable[..., Any]
#: The stores whose methods are replaced. A subclass that nobody has imported yet would be missed.
STORES = (RedisStore, StoreBesideBroker)


def apply(app: Service) -> None:
    """Switch off what CHAOS_SABOTAGE names, if anything, in the process of this service."""
    if name := os.environ.get("CHAOS_SABOTAGE"):
        SABOTAGES[name]()


def _sabotage(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(function: Callable[[], None]) -> Callable[[], None]:
        SABOTAGES[name] = function
        return function

    return register


def _replace(cls: type, name: str, make: Callable[[Method], Method]) -> None:
    """Put what ``make`` makes of a method in its place, in a class and in its subclasses."""
    for owner in owners(cls, name):
        setattr(owner, name, make(vars(owner)[name]))


def _before_begin(tamper: Callable[[RedisStore, str], None]) -> None:
    """Tamper with the record of a unit whenever it is about to be begun."""

    def make(original: Method) -> Method:
        def begin(self: RedisStore, claim: Claim) -> Begun:
            tamper(self, self._unit(claim.handler, claim.unit)[0])
            begun: Begun = original(self, claim)
            return begun

        return begin

    _replace(RedisStore, "begin", make)


@_sabotage("record in flight")
def take_without_a_record() -> None:
    """A message that was taken is in a process's memory only."""
    original = transport.Channel.basic_consume

    def basic_consume(self: Any, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        return original(self, queue, True, *args, **kwargs)

    transport.Channel.basic_consume = basic_consume  # type: ignore[method-assign]


@_sabotage("late ack")
def ack_before_handling() -> None:
    HandlerTask.acks_late = False


@_sabotage("inbox")
def forget_what_is_done() -> None:
    """Every delivery runs its handler."""
    _before_begin(lambda store, unit: store._client.delete(unit))


@_sabotage("lease")
def never_busy() -> None:
    """A delivery does not care whether another worker is at it."""
    _before_begin(lambda store, unit: store._client.hdel(unit, "until"))


@_sabotage("fencing token")
def commit_without_token() -> None:
    """Whoever comes to the commit commits, and the last one wins."""

    def make(original: Method) -> Method:
        def commit(self: RedisStore, claim: Claim, settlement: Settlement) -> Committed:
            unit = self._unit(claim.handler, claim.unit)[0]
            self._client.hdel(unit, "done")
            self._client.hset(unit, "token", claim.token)
            committed: Committed = original(self, claim, settlement)
            return committed

        return commit

    _replace(RedisStore, "commit", make)


@_sabotage("busy copies wait")
def drop_the_busy_copy() -> None:
    Delivery._postpone = lambda *_: "somebody else is at it"  # type: ignore[method-assign, assignment]


@_sabotage("atomic commit")
def commit_in_two_steps() -> None:
    """The unit is settled first, and what follows from it is recorded and sent after that; one may die in between."""

    def make(original: Method) -> Method:
        def commit(self: RedisStore, claim: Claim, settlement: Settlement) -> Committed:
            committed = original(self, claim, Settlement(done=settlement.done, unscheduled=settlement.unscheduled))
            for scheduled in settlement.scheduled:
                self.schedule(claim.handler, scheduled)
            return Committed(committed.outcome, unsent=settlement.sent)

        return commit

    _replace(RedisStore, "commit", make)


@_sabotage("relay of the outbox")
def nobody_relays() -> None:
    """What a crash left in the outbox stays there."""

    def make(original: Method) -> Method:
        def due(self: RedisStore, owner: str, limit: int, hold: float) -> list[Any]:
            return [entry for entry in original(self, owner, limit, hold) if not entry[0].startswith("event:")]

        return due

    _replace(RedisStore, "due", make)


@_sabotage("publisher confirms")
def believe_the_socket() -> None:
    """What was written to the socket counts as published."""

    def collect(self: RabbitLine) -> None:
        for post in self._unanswered.values():
            post.confirmed = True
        self._unanswered.clear()

    RabbitLine._collect = collect  # type: ignore[method-assign]
    RabbitLine._answered = lambda *_: []  # type: ignore[method-assign]


@_sabotage("a join's seen parts count")
def drop_seen_parts() -> None:
    """A part that was seen before is dropped, as a join made of "first time?" checks would do."""

    def make(original: Method) -> Method:
        def arrive(self: RedisStore, claim: Claim, arrival: Arrival) -> Begun:
            if self._client.hexists(self._unit(claim.handler, claim.unit)[1], arrival.name):
                return Begun(Verdict.WAIT, 1)
            begun: Begun = original(self, claim, arrival)
            return begun

        return arrive

    _replace(RedisStore, "arrive", make)
