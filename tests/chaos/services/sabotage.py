"""
The defences of choreo, one at a time switched off: a suite that stays green then would be worth nothing.

CHAOS_SABOTAGE names one. What it does is patched from the outside; see `defences.py` for what has to turn red.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from threading import Timer
from typing import Any

from choreo import Service
from choreo.broker.lines import TIMEOUT
from choreo.broker.rabbitmq.confirms import RabbitLine
from choreo.broker.redis import transport
from choreo.delivery.delivery import Delivery
from choreo.delivery.lease_keeper import LeaseKeeper
from choreo.fast.fused_store import FusedStore
from choreo.redis_client.scripts import source_of
from choreo.store import Arrival, Claim, ClaimResult, CommitResult, Settlement, Verdict
from choreo.store.redis import RedisStore
from choreo.store.redis_schedule import RedisSchedule
from choreo.worker.handler import HandlerTask
from tests.chaos.services import surgery
from tests.chaos.services.crash import owners

SABOTAGES: dict[str, Callable[[], None]] = {}

Method = Callable[..., Any]
#: The stores whose methods are replaced. A subclass that nobody has imported yet would be missed.
STORES = (RedisStore, FusedStore)


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
    assert owners(cls, name), f"{cls.__name__} has no {name} any more: the sabotage has to follow the defence"
    for owner in owners(cls, name):
        setattr(owner, name, make(vars(owner)[name]))


def _silence(cls: type, name: str) -> None:
    """Make a method do nothing."""
    _replace(cls, name, lambda _: lambda *_: None)


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
    """Every delivery runs its handler: neither the script that takes nor the one that begins finds anything done."""
    head = "local function inbox_has(prefix, place, retention, ms)\n"
    surgery.in_broker("take", head, head + "  do return false end\n")
    for name in ("store/begin", "store/commit", "fast/commit_fused"):
        surgery.in_script(name, head, head + "  do return false end\n")


@_sabotage("lease")
def never_busy() -> None:
    """A delivery does not care whether another worker is at it, neither when it is taken nor when it begins."""
    surgery.in_broker("take", "if state[2] and redis.call('HEXISTS', state[5], state[2]) == 1 then return '' end", "")
    for name in ("store/begin", "store/arrive"):
        surgery.in_script(name, "if left > 0 and state[3] ~= token then return {'busy', left} end", "")


@_sabotage("lease renewal")
def never_renewed() -> None:
    """However long a handler runs, its lease ends when it would have ended."""
    _silence(LeaseKeeper, "_renew")


@_sabotage("note of a child's")
def return_without_a_note() -> None:
    """Nobody notes what a pool child was busy with that died."""
    surgery.in_broker("give_back", "if ARGV[2] == '2' then", "if false then")


@_sabotage("note of the oldest")
def bury_without_a_note() -> None:
    """Nobody notes what a dead consumer was busy with."""
    surgery.in_broker("give_back", "elseif ARGV[2] == '1' then", "elseif false then")


@_sabotage("poison count")
def never_poison() -> None:
    """However often a unit was begun, it counts as the first time."""
    for name in ("store/begin", "store/arrive"):
        counted = "local deliveries = tonumber(before) + (is_repeated and 0 or 1)"
        surgery.in_script(name, counted, "local deliveries = 1")


@_sabotage("own address")
def return_to_everybody() -> None:
    """What goes back goes where its event was announced, as with kombu: to every queue that is bound to its type."""
    begin = "local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])"
    surgery.in_broker("give_back", begin, source_of("broker/redis/route") + begin)
    surgery.in_broker("give_back", "redis.call('RPUSH', queue, message)", _TO_EVERYBODY)


#: The type of an event stands in the body, which is a string within JSON.
_TO_EVERYBODY = r"""
    local kind = string.match(message, '\\"type\\":\\"([%w_.]+)\\"')
    for _, exchange in ipairs(redis.call('HKEYS', '_choreo.exchanges')) do
      local bindings, routes = '_kombu.binding.' .. exchange, '_choreo.routes.' .. exchange
      for _, queue in ipairs(kind and route(bindings, routes, kind, '\6\22') or {}) do
        redis.call('RPUSH', queue, message)
        wake('_choreo.wake.' .. queue)
      end
    end"""


@_sabotage("own tag")
def ack_the_copies_of_others() -> None:
    """Who acks a copy acks every copy of the event, as with kombu, where all have one tag in one hash."""
    loop = "for j = i, math.min(i + 499, #ARGV) do" + _ACK_ALL + " end"
    taken = "redis.call('HDEL', KEYS[2], unpack(ARGV, i, math.min(i + 499, #ARGV)))"
    acked = "acked = acked + redis.call('HDEL', KEYS[1], unpack(ARGV, i, math.min(i + 499, #ARGV)))"
    surgery.in_broker("take", taken, loop.replace("INFLIGHT", "KEYS[2]").replace("TAG", "ARGV[j]"))
    surgery.in_broker("ack", acked, loop.replace("INFLIGHT", "KEYS[1]").replace("TAG", "ARGV[j]"))
    committed = "redis.call('HDEL', KEYS[6], ARGV[i])"
    acks = _ACK_ALL.replace("INFLIGHT", "KEYS[6]").replace("TAG", "ARGV[i]")
    surgery.in_script("fast/commit_fused", committed, acks)


_ACK_ALL = r"""
    local record = redis.call('HGET', INFLIGHT, TAG)
    local same = record and string.match(record, '"task": "choreo.event", "id": "[^"]+"')
    redis.call('HDEL', INFLIGHT, TAG)
    for _, key in ipairs(same and redis.call('KEYS', '_choreo.inflight.*') or {}) do
      local records = redis.call('HGETALL', key)
      for n = 1, #records, 2 do
        if string.find(records[n + 1], same, 1, true) then redis.call('HDEL', key, records[n]) end
      end
    end"""


@_sabotage("fencing token")
def commit_without_token() -> None:
    """Whoever comes to the commit commits, and the last one wins."""
    for name in ("store/commit", "fast/commit_fused"):
        surgery.in_script(name, "if state[1] then return 'already' end", "")
        surgery.in_script(name, "if state[2] ~= token then", "if false then")


@_sabotage("busy copies wait")
def drop_the_busy_copy() -> None:
    _silence(Delivery, "postpone")


@_sabotage("retry before the ack")
def remember_the_retry_oneself() -> None:
    """The failed attempt is settled, and its worker keeps the next one in mind."""

    def make(original: Method) -> Method:
        def commit(self: RedisStore, claim: Claim, settlement: Settlement) -> CommitResult:
            retries = [entry for entry in settlement.scheduled if entry.id.startswith("retry:")]
            others = [entry for entry in settlement.scheduled if entry not in retries]
            committed: CommitResult = original(self, claim, replace(settlement, scheduled=others))
            for entry in retries:
                timer = Timer(entry.delay, self.schedule, [claim.handler, replace(entry, delay=0)])
                timer.daemon = True
                timer.start()
            return committed

        return commit

    _replace(RedisStore, "commit", make)


@_sabotage("hold")
def hand_out_to_everybody() -> None:
    """What one worker is sending, the others are handed as well."""

    def make(original: Method) -> Method:
        return lambda self, owner, limit, _: original(self, owner, limit, 0.0)

    _replace(RedisSchedule, "due", make)


@_sabotage("atomic commit")
def commit_in_two_steps() -> None:
    """The unit is settled first, and what follows from it is recorded and sent after that; one may die in between."""

    def make(original: Method) -> Method:
        def commit(self: RedisStore, claim: Claim, settlement: Settlement) -> CommitResult:
            committed = original(self, claim, Settlement(done=settlement.done, unscheduled=settlement.unscheduled))
            for scheduled in settlement.scheduled:
                self.schedule(claim.handler, scheduled)
            return CommitResult(committed.outcome, unsent=settlement.sent)

        return commit

    _replace(RedisStore, "commit", make)


@_sabotage("relay of the outbox")
def nobody_relays() -> None:
    """What a crash left in the outbox stays there."""

    def make(original: Method) -> Method:
        def due(self: RedisSchedule, owner: str, limit: int, hold: float) -> list[Any]:
            return [entry for entry in original(self, owner, limit, hold) if not entry[0].startswith("event:")]

        return due

    _replace(RedisSchedule, "due", make)


@_sabotage("publisher confirms")
def believe_the_socket() -> None:
    """What was written to the socket counts as published."""

    def collect(self: RabbitLine, most: int = 0) -> None:
        self._outlet.flush(TIMEOUT)
        for post in self._unanswered.values():
            post.confirmed = True
        self._unanswered.clear()

    RabbitLine._collect = collect  # type: ignore[method-assign]
    RabbitLine._answered = lambda *_: []  # type: ignore[method-assign]


@_sabotage("a join's seen parts count")
def drop_seen_parts() -> None:
    """A part that was seen before is dropped, as a join made of "first time?" checks would do."""

    def make(original: Method) -> Method:
        def arrive(self: RedisStore, claim: Claim, arrival: Arrival) -> ClaimResult:
            parts = self._unit(claim.handler, claim.unit)[1]
            if self._calls.ask(lambda client: client.hexists(parts, arrival.name)):
                return ClaimResult(Verdict.WAIT, 1)
            result: ClaimResult = original(self, claim, arrival)
            return result

        return arrive

    _replace(RedisStore, "arrive", make)
