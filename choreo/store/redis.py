"""The store in Redis, or in a Redis Cluster: one Lua script per decision.

All keys of one handler have the same hash tag (``choreo:{payment.charge_customer}:due``), so that a Redis Cluster
keeps them in one slot; so have the keys of one service's workers, and of the delayed events. The four keys of the
whole platform (``choreo:handlers``, ``choreo:joins``, ``choreo:services`` and ``choreo:repairs``) are in a slot each.
No call reads keys of two slots.

While a slot moves, a cluster refuses a script of several keys unless all the keys that it names are there. A script
that also uses keys which it does not name could stop in the middle. So it names the start of the inbox's keys, which is
never a key itself: the whole script is then refused.

Every script begins with a comment on its keys, arguments and answers. Here are the calls of claims, joins and services;
the rest is in the files beside this one, one for each part of the store.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha1
from itertools import chain
from typing import Any

from redis.exceptions import ResponseError

from choreo.cached import cached_property
from choreo.errors import StoreError
from choreo.events.message import Message
from choreo.events.patterns import Binding
from choreo.redis_client.cluster import servers
from choreo.redis_client.evictions import watch
from choreo.redis_client.refusals import explained
from choreo.redis_client.scripts import Script
from choreo.redis_client.wire import Argument, Call
from choreo.store.calls import Calls
from choreo.store.claims import (
    OUTBOX_GRACE,
    Claim,
    ClaimResult,
    CommitResult,
    LastEnd,
    Outcome,
    Repeated,
    Settlement,
    Verdict,
)
from choreo.store.deployments import Applied, Retirement, Retiring, Step
from choreo.store.failures import FORGOTTEN_AFTER, MOST_KINDS, Row
from choreo.store.joins import Arrival, JoinState
from choreo.store.letters import Card
from choreo.store.port import Store
from choreo.store.presence import Presence, Program
from choreo.store.redis_deployments import RedisDeployments, pair
from choreo.store.redis_letters import RedisLetters
from choreo.store.redis_part import ms, scheduled_args
from choreo.store.redis_pauses import RedisPauses
from choreo.store.redis_programs import RedisPrograms
from choreo.store.redis_runs import RedisRuns, Tending, time_of
from choreo.store.redis_schedule import RedisSchedule, is_utf8
from choreo.store.redis_search import RedisSearch
from choreo.store.redis_turns import RedisTurns
from choreo.store.register import MOST_UNHEARD, Declared, Listening, UnheardType
from choreo.store.repairs import MOST_REPAIRS
from choreo.store.runs import Recording
from choreo.store.schedule import Scheduled, deadline_id
from choreo.store.slots import WAITER_TTL, YIELD_AFTER, Slot
from choreo.store.terms import Terms
from choreo.store.together import NOTHING_SENT, Beginning, Sent
from choreo.store.turns import Turn, TurnResult

logger = logging.getLogger(__name__)

#: The script that answers about one unit, where others answer about several.
_ARRIVE = "store/arrive"


class RedisStore(RedisSchedule, RedisPauses, RedisLetters, RedisRuns, RedisSearch, Store):
    """
    The store in Redis. See the protocols of `choreo.store` for the guarantees of each method.

    Every key begins with ``prefix``. ``recording`` says how many runs are recorded. ``ssl`` and ``transport`` are those
    of `choreo.redis_client.client.find_client`.
    Safe in threads, and after a fork. Needs Redis 7 (or Valkey) with ``maxmemory-policy noeviction``.
    """

    def __init__(
        self,
        url: str,
        terms: Terms = Terms(),  # noqa: B008 - immutable
        prefix: str = "choreo",
        *,
        ssl: Mapping[str, Any] | bool | None = None,
        transport: Mapping[str, Any] | None = None,
        recording: Recording = Recording(),  # noqa: B008 - immutable
    ) -> None:
        self.url = url
        self.terms = terms
        self._lease, self._retention = ms(terms.lease.total_seconds()), ms(terms.retention.total_seconds())
        self.prefix = prefix
        self._recording = recording
        self._record_args = f"{recording.shelf_length} {ms(recording.lifetime.total_seconds())}"
        self._calls = Calls(url, ssl, transport)
        self._fixed_keys: dict[str, list[str]] = {}
        self._tending = Tending(recording.lifetime.total_seconds())

    def _unit(self, handler: str, unit: str) -> tuple[str, str]:
        start = f"{self.prefix}:{{{handler}}}:"
        return f"{start}unit:{unit}", f"{start}parts:{unit}"

    def _done(self, handler: str) -> str:
        """The start of the names of the keys of the handler's inbox: see inbox.lua."""
        return self._key(handler, "done", "")

    def _cabinet(self, handler: str) -> tuple[str, str]:
        return self._key(handler, "letters"), self._key(handler, "letters", "index")

    def _lease_args(self, claim: Claim) -> list[Any]:
        return [_attempt(claim), claim.token, self._lease_of(claim), self.terms.max_deliveries, self._retention]

    def _lease_of(self, claim: Claim) -> int:
        """Milliseconds for which the claim holds unless it is renewed."""
        return ms(claim.ahead) if claim.ahead else self._lease

    def begin(self, claim: Claim) -> ClaimResult:
        """Claim a unit."""
        return claim_result(self._run("begin", *self._beginning(claim)))

    def _beginning(self, claim: Claim) -> tuple[list[str], list[Any]]:
        """Keys and arguments of begin.lua."""
        keys = [*self._unit(claim.handler, claim.unit), self._done(claim.handler)]
        own = _remembered(claim.unit), self._in_flight(claim), claim.once
        return keys, [*self._lease_args(claim), *own, "1" if claim.ahead else ""]

    def _in_flight(self, claim: Claim) -> str:  # noqa: ARG002
        """The key under which this server keeps the claim's delivery in flight; "" if the server is not the broker."""
        return ""

    def forgive(self, claim: Claim) -> None:
        """Count one beginning less."""
        self._run("forgive", self._unit(claim.handler, claim.unit)[:1], [])

    def record_end(self, handler: str, unit: str, text: str, tokens: Sequence[str] = ()) -> None:
        """Record how the process ended that ran this unit."""
        self._run("record_end", self._unit(handler, unit)[:1], [text, *tokens])

    def last_end(self, handler: str, unit: str) -> LastEnd:
        """What is known of the beginning before the current one."""
        record, _ = self._unit(handler, unit)
        fields = self._calls.ask(lambda client: client.hmget(record, "deliveries", "ended", "before"))
        deliveries, ended, before = ((field or b"").decode() for field in fields)
        number, _, text = ended.partition(" ")
        # The next beginning asks; or nobody has begun it since.
        is_of_it = number.isdigit() and int(number) >= int(deliveries or 1) - 1
        return LastEnd(text if is_of_it else "", before)

    def is_finished(self, handler: str, unit: str) -> bool:
        """True if the unit is finished for good, and the store remembers it."""
        keys = [self._unit(handler, unit)[0], self._done(handler)]
        return bool(self._run("is_finished", keys, [_remembered(unit), self._retention]))

    def returned(self, handler: str, delivery: str, by: int = 1) -> int:
        """Count one more return of a delivery that no claim counts."""
        # Any text may name the delivery, so the name of the key is a digest of it.
        digest = sha1(delivery.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()
        key = self._key(handler, "returned", digest)

        def count(client: Any) -> int:
            with client.pipeline(transaction=True) as pipeline:
                pipeline.incrby(key, by)
                pipeline.pexpire(key, self._retention)
                return int(pipeline.execute()[0])

        return self._calls.ask(count)

    def arrive(self, claim: Claim, arrival: Arrival) -> ClaimResult:
        """Record one part of a join, and claim the join if it is complete."""
        return claim_result(self._run("arrive", *self._arriving(claim, arrival)))

    def _arriving(self, claim: Claim, arrival: Arrival, *, ahead: bool = False) -> tuple[list[str], list[Any]]:
        """Keys and arguments of arrive.lua."""
        due, *_, done = self._settlement_keys(claim.handler)
        keys = [*self._unit(claim.handler, claim.unit), due, self._key(claim.handler, "tally"), done]
        args: list[Any] = [
            *self._lease_args(claim),
            arrival.part,
            arrival.name,
            arrival.text,
            ms(arrival.within),
            deadline_id(claim.unit),
            arrival.at_least,
            self._in_flight(claim),
            int(ahead or claim.ahead > 0),
            int(arrival.may_be_repeated),
            arrival.round_of,
            len(arrival.counts),
        ]
        for part, count in arrival.counts.items():
            args += [part, count]
        for part, need in arrival.needs.items():
            args += [part, "" if need is None else need]
        return keys, args

    def pending(self, handler: str, limit: int, after: str = "") -> tuple[list[str], str]:
        """Units of pending joins, soonest deadline first, and the cursor of the next page."""
        score, _, last = after.partition(" ")
        due, _ = self._calendar(handler)
        units, cursor = self._run("pending", [due], [limit, score, last])
        return [unit.decode() for unit in units], cursor.decode()

    def look(self, handler: str, unit: str) -> JoinState | None:
        """A pending join as it is now; None if there is none."""
        keys = [*self._unit(handler, unit), self._calendar(handler)[0]]
        answer = self._run("look", keys, [deadline_id(unit), self._lease])
        if not answer:
            return None
        deadline, is_overdue, attempts, lease, *fields = answer
        entries = {fields[i].decode(): fields[i + 1].decode() for i in range(0, len(fields), 2)}
        stamped = {name: text.partition(" ") for name, text in entries.items() if name[0] not in "#?"}
        in_order = sorted(stamped, key=lambda name: int(stamped[name][0]))
        return JoinState(
            unit,
            float(deadline) / 1000,
            bool(is_overdue),
            parts={name: stamped[name][2] for name in in_order},
            arrived={name: int(stamped[name][0]) / 1000 for name in in_order},
            counts={name[1:]: int(text) for name, text in entries.items() if name.startswith("?")},
            attempts=attempts,
            lease=lease / 1000,
        )

    def tally(self, handler: str) -> dict[str, int]:
        """How many events did not count for a join, by reason."""
        counts = self._calls.ask(lambda client: client.hgetall(self._key(handler, "tally")))
        return {name.decode(): int(count) for name, count in counts.items()}

    def describe_joins(self, descriptions: Mapping[str, str]) -> None:
        """Record the declarations of these joins: handler → JSON."""
        if descriptions:
            self._calls.ask(lambda client: client.hset(f"{self.prefix}:joins", mapping=dict(descriptions)))

    def joins(self) -> dict[str, str]:
        """Every join that was ever described: handler → JSON. What is no JSON object is left out."""
        found = self._calls.ask(lambda client: client.hgetall(f"{self.prefix}:joins"))
        texts = {handler.decode(): text.decode(errors="replace") for handler, text in sorted(found.items())}
        return {handler: text for handler, text in texts.items() if _is_object(text)}

    def renew(self, claim: Claim) -> bool:
        """Prolong the lease. False when another worker has the claim, or the unit is settled."""
        unit, _ = self._unit(claim.handler, claim.unit)
        args = [claim.token, self._lease, self._retention]
        return bool(self._run("renew", [unit], args))

    def take_slot(self, slot: Slot, limit: int, waiter: str) -> bool:
        """Take a slot, or wait for one."""
        keys = [self._key(slot.handler, *part) for part in (("slots",), ("slots", "waiting"), ("slots", "asked"))]
        args = [slot.token, self._lease, limit, waiter, ms(WAITER_TTL), ms(YIELD_AFTER)]
        return bool(self._run("take_slot", keys, args))

    def renew_slot(self, slot: Slot) -> bool:
        """Prolong the lease of a slot. False when it is no longer taken."""
        return bool(self._run("renew_slot", [self._key(slot.handler, "slots")], [slot.token, self._lease]))

    def free_slot(self, slot: Slot) -> None:
        """Give a slot up."""
        self._calls.ask(lambda client: client.zrem(self._key(slot.handler, "slots"), slot.token))

    def taken_slots(self, handler: str) -> list[str]:
        """The tokens of the slots that are taken."""
        key = self._key(handler, "slots")
        after = f"({self._calls.time(key) * 1000:.0f}"
        found = self._calls.ask(lambda client: client.zrangebyscore(key, after, "+inf"))
        return sorted(token.decode() for token in found)

    @cached_property
    def _turns(self) -> RedisTurns:
        return RedisTurns(self._calls, self._key, self._lease, self._retention)

    def enter_series(self, turn: Turn) -> None:
        """Note that an event has come."""
        self._turns.enter(turn)

    def take_turn(self, turn: Turn, message: Message) -> TurnResult:
        """Take the turn, or keep the event until it comes."""
        return self._turns.take(turn, message)

    def renew_turn(self, turn: Turn) -> bool:
        """Prolong the turn of a run. False when another event has it."""
        return self._turns.renew(turn)

    def end_turn(self, turn: Turn, wait: float | None = None) -> Mapping[str, Message]:
        """End the turn of an event that is finished, or gives it up."""
        return self._turns.end(turn, wait)

    def series(self, handler: str, key: str) -> list[str]:
        """The units of a series in their order."""
        return self._turns.series(handler, key)

    def commit(self, claim: Claim, settlement: Settlement) -> CommitResult:
        """Settle a claim."""
        args = self._settlement_args(claim, settlement, _with_outbox(settlement).scheduled)
        keys, args = self._settlement_keys(claim.handler), [*self._first_args(claim.handler), *args]
        answer, repeated = self._calls.run_once(Script.load("store/commit"), keys, args)
        return _committed(answer, settlement, repeated)

    def begin_all(self, beginnings: Sequence[Beginning]) -> list[ClaimResult | StoreError]:
        """Claim each unit, in one round trip."""
        script = Script.load("store/begin_all")
        calls: list[Call] = []
        places: list[list[int]] = []
        for handler, numbers in _by_handler([claim for claim, _ in beginnings]).items():
            claims = [number for number in numbers if beginnings[number][1] is None]
            if claims:
                args: list[Argument] = [self._key(handler, ""), self.terms.max_deliveries, self._retention]
                for number in claims:
                    claim = beginnings[number][0]
                    args += [_attempt(claim), claim.token, self._lease_of(claim), "1" if claim.ahead else ""]
                    args += [claim.unit, _remembered(claim.unit), claim.once]
                calls.append((script, [self._done(handler)], args))
                places.append(claims)
        for number, (claim, arrival) in enumerate(beginnings):
            if arrival is not None:
                calls.append((Script.load(_ARRIVE), *self._arriving(claim, arrival)))
                places.append([number])
        answers = self._together(calls, places, len(beginnings))
        if answers is None:
            return super().begin_all(beginnings)
        return [one if isinstance(one, StoreError) else claim_result(one) for one, _ in answers]

    def commit_all(
        self, commits: Sequence[tuple[Claim, Settlement]], sent: Sent = NOTHING_SENT
    ) -> list[CommitResult | StoreError]:
        """Settle each claim, and remove messages that the broker has, in one round trip."""
        script = Script.load("store/commit_all")
        calls: list[Call] = []
        places: list[list[int]] = []
        for handler, numbers in _by_handler([claim for claim, _ in commits]).items():
            args: list[Any] = self._first_args(handler)
            for number in numbers:
                claim, settlement = commits[number]
                args += self._settlement_args(claim, settlement, _with_outbox(settlement).scheduled)
            calls.append((script, self._settlement_keys(handler), args))
            places.append(numbers)
        for name, ids in sent.items():
            calls.append((Script.load("store/sent"), self._calendar(name), ids))
            places.append([])
        answers = self._together(calls, places, len(commits))
        if answers is None:
            return super().commit_all(commits, sent)
        return [
            one if isinstance(one, StoreError) else _committed(one, settlement, repeated)
            for (one, repeated), (_, settlement) in zip(answers, commits, strict=True)
        ]

    def _together(
        self, calls: Sequence[Call], places: Sequence[Sequence[int]], count: int
    ) -> list[tuple[Any, bool]] | None:
        """
        The answer about each unit, and True if it was asked more than once. None if a text cannot be sent to Redis.

        ``places`` are the numbers of the units that each call is about.
        """
        found: list[tuple[Any, bool]] = [(None, False)] * count
        try:
            answers, repeated = self._calls.run_all(calls) if calls else ([], False)
        except StoreError as error:
            return None if isinstance(error.__cause__, UnicodeEncodeError) else [(error, True)] * count
        for (script, _, _), numbers, answer in zip(calls, places, answers, strict=True):
            if not numbers:
                continue
            of_each = [answer] * len(numbers) if isinstance(answer, Exception) or script.name == _ARRIVE else answer
            for number, one in zip(numbers, of_each, strict=True):
                found[number] = self._calls.failed(one) if isinstance(one, Exception) else one, repeated
        return found

    def sent_all(self, ids: Sent) -> None:
        """Remove messages that the broker has, in one round trip."""
        if not all(map(is_utf8, chain.from_iterable(ids.values()))):
            super().sent_all(ids)
            return
        self._for_each([("sent", self._calendar(name), some) for name, some in ids.items()])

    def release(self, claims: Sequence[Claim]) -> None:
        """Give up claims that were made ahead, as far as their handlers have not begun."""
        self._for_each([("release", self._unit(claim.handler, claim.unit)[:1], [claim.token]) for claim in claims])

    def undo_begin(self, claims: Sequence[Claim]) -> None:
        """Take the beginnings of these claims back."""
        self._for_each([("undo_begin", self._unit(claim.handler, claim.unit)[:1], [claim.token]) for claim in claims])

    def _for_each(self, calls: Sequence[tuple[str, Sequence[Argument], Sequence[Argument]]]) -> None:
        """Run scripts of one word each, in one round trip."""
        answers, _ = self._calls.run_all([(Script.load(f"store/{name}"), keys, args) for name, keys, args in calls])
        for answer in answers:
            if isinstance(answer, Exception):
                raise self._calls.failed(answer)

    def commit_as_one(self, commits: Sequence[tuple[Claim, Settlement]], shared: Settlement) -> list[CommitResult]:
        """Settle several claims of one handler in one step."""
        handler = commits[0][0].handler
        args: list[Any] = [*self._first_args(handler), *self._shared_args(handler, _with_outbox(shared))]
        for claim, settlement in commits:
            args += self._settlement_args(claim, settlement, _with_outbox(settlement).scheduled)
        script, keys = Script.load("store/commit_as_one"), self._settlement_keys(handler)
        answer, repeated = self._calls.run_once(script, keys, args)
        outcomes = [_outcome_in(text) for text in answer]
        first = next((number for number, outcome in enumerate(outcomes) if outcome is Outcome.OK), None)
        answers = []
        for number, (outcome, (_, settlement)) in enumerate(zip(outcomes, commits, strict=True)):
            unsent = {**settlement.sent, **(shared.sent if number == first else {})}
            answers.append(CommitResult(outcome, unsent if outcome is Outcome.OK else {}, repeated=repeated))
        return answers

    def _shared_args(self, handler: str, shared: Settlement, messages: int = 0) -> list[Any]:
        """The arguments for what leaves if any claim is settled: those of a claim without a token, or none."""
        if not (shared.scheduled or messages):
            return []
        return self._settlement_args(Claim(handler, "", "", 0), shared, shared.scheduled, messages)

    def _settlement_keys(self, handler: str) -> list[str]:
        if handler not in self._fixed_keys:
            self._fixed_keys[handler] = [*self._calendar(handler), *self._cabinet(handler), self._done(handler)]
        return self._fixed_keys[handler]

    def _first_args(self, handler: str) -> list[str]:
        """The first arguments of the scripts that commit: see settle.lua."""
        return [self._key(handler, ""), self._record_args]

    def _settlement_args(
        self, claim: Claim, settlement: Settlement, scheduled: Sequence[Scheduled], messages: int = 0
    ) -> list[Any]:
        """The arguments of settle.lua for one claim. The caller adds those of its own ``messages``."""
        letter = _letter_args(*settlement.letter) if settlement.letter else ()
        unwanted, took_part, recorded = settlement.unscheduled, settlement.took_part, settlement.record
        kept = ("2" if _remembered(claim.unit) and not letter else settlement.note) if settlement.done else "0"
        retention = max(self._retention, ms(settlement.remember)) if settlement.remember else self._retention
        args: list[Any] = [claim.token, _attempt(claim), kept, retention, claim.unit]
        if not (letter or unwanted or scheduled or messages or took_part or settlement.counted or len(recorded) > 1):
            # Most commits record one run, or none.
            args.append("1" if recorded else "")
        else:
            counts = f"{len(letter) // 5} {len(unwanted)} {len(scheduled)} {messages} {len(took_part)}"
            args.append(f"{counts} {len(recorded)} {settlement.counted}".rstrip())
            args += (*letter, *unwanted)
            for entry in scheduled:
                args += scheduled_args(entry)
            if took_part:
                args += [ms(settlement.retention) or self._retention, *took_part]
        for name, text in recorded:
            args += (self._tending.marked(claim.handler, name), text)
        return args

    def add_letter(
        self,
        handler: str,
        letter_id: str,
        letter: str,
        scheduled: Sequence[Scheduled] = (),
        card: Card | None = None,
    ) -> None:
        """Record a dead letter outside any unit."""
        # A delivery that cannot be read has no unit. Its dead letter is settled with a unit of its own.
        claim = Claim(handler, f"letter:{letter_id}", letter_id)
        self.begin(claim)
        filed = (letter_id, letter) if card is None else (letter_id, letter, card)
        outcome = self.commit(claim, Settlement(letter=filed, scheduled=scheduled)).outcome
        if outcome not in (Outcome.OK, Outcome.ALREADY):
            raise StoreError(f"the dead letter {letter_id} of {handler} was not recorded: its claim is {outcome.value}")

    def repeat(self, handler: str, unit: str, parts: Mapping[str, str], scheduled: Scheduled) -> Repeated:
        """Forget that a unit is finished, restore a join's parts, and schedule the message that runs it once more."""
        keys = [*self._unit(handler, unit), *self._calendar(handler), self._done(handler)]
        args: list[Any] = [*scheduled_args(scheduled), self._retention, _remembered(unit)]
        for part, text in parts.items():
            args += [part, text]
        return Repeated(self._run("repeat", keys, args).decode())

    def count_failure(self, handler: str, kind: str, *, anew: bool = False) -> Row:
        """Count one more failure of a handler."""
        key = self._key(handler, "failing")
        args = [f"kind {kind}", int(anew), MOST_KINDS, ms(FORGOTTEN_AFTER)]
        of_kind, total, since = self._run("count_failure", [key], args)
        return Row(of_kind, total, int(since) / 1000)

    def forget_failures(self, handler: str) -> None:
        """End the row: the handler has succeeded."""
        self._calls.ask(lambda client: client.delete(self._key(handler, "failing")))

    def register(self, handlers: Sequence[str]) -> None:
        """Record these handlers."""
        if handlers:
            self._calls.ask(lambda client: client.sadd(f"{self.prefix}:handlers", *handlers))

    def declare(
        self, service: str, worker: str, bindings: Sequence[Binding], ttl: float, removed: Sequence[Binding] = ()
    ) -> Declared:
        """Report that a worker lives and declares these bindings, and find the bindings that may be removed."""
        return self._deployments.declare(service, worker, bindings, ttl, removed)

    def declared(self, service: str) -> dict[str, list[Binding]]:
        """The live workers of a service, and the bindings that each declares."""
        key = self._key(service, "workers")
        workers, seconds = self._calls.ask(lambda client: client.hgetall(key)), self._calls.time(key)
        found = {}
        for worker, record in workers.items():
            until, *bindings = record.decode().split("\n")
            if int(until) / 1000 > seconds:
                found[worker.decode()] = [pair(text) for text in bindings]
        return found

    def listening(self, service: str) -> Listening | None:
        """The queues of this service that events reach; None if no worker of it has ever called `declare`."""
        workers = self._key(service, "workers")

        def look(pipeline: Any) -> None:
            pipeline.hvals(workers)
            pipeline.smembers(self._key(service, "bindings"))
            pipeline.exists(self._key(service, "queues"))

        (records, bindings, was_declared), seconds = self._calls.together(look), self._calls.time(workers)
        declarations = [record.decode().split("\n") for record in records]
        live = [declared for until, *declared in declarations if int(until) > seconds * 1000]
        if not live and not was_declared:
            return None
        return Listening(
            frozenset(pair(text.decode()) for text in bindings),
            [frozenset(pair(text)[0] for text in declared) for declared in live],
        )

    @cached_property
    def _deployments(self) -> RedisDeployments:
        return RedisDeployments(self._calls, self._key)

    def apply(self, service: str, bindings: Sequence[Binding], seconds: float, *, is_made: bool = False) -> None:
        """Let these bindings count as declared for ``seconds``."""
        self._deployments.apply(service, bindings, seconds, is_made=is_made)

    def applied(self, service: str) -> Applied | None:
        """What was applied for a service, and still counts."""
        return self._deployments.applied(service)

    def retire(self, service: str, queue: str, step: Step, record: str = "", seconds: float = 0.0) -> Retiring:
        """Make a step in the retirement of the handler with this queue."""
        return self._deployments.retire(service, queue, step, record, seconds)

    def retirements(self, service: str) -> list[Retirement]:
        """The marks of a service's handlers, by queue."""
        return self._deployments.retirements(service)

    def forget(self, handler: str) -> bool:
        """Forget all that is kept of a handler, unless something of it is left."""
        due, messages, letters, *_ = self._settlement_keys(handler)
        if not self._deployments.forget(handler, [due, messages, letters]):
            return False
        self._calls.ask(lambda client: client.hdel(f"{self.prefix}:joins", handler))
        self._calls.ask(lambda client: client.srem(f"{self.prefix}:handlers", handler))
        return True

    def report(
        self, service: str, program: Program, description: str, ttl: float, announced: Sequence[str] = ()
    ) -> None:
        """Report that this program lives for the next ``ttl`` seconds, and declares this."""
        self._programs.report(service, program, description, ttl, announced)

    def leave(self, service: str, program: str) -> None:
        """Report that this program ends."""
        self._programs.leave(service, program)

    def presence(self, service: str) -> Presence:
        """The programs of a service, and what they declare."""
        return self._programs.presence(service)

    @cached_property
    def _programs(self) -> RedisPrograms:
        return RedisPrograms(self._calls, self._key, f"{self.prefix}:services")

    def services(self) -> list[str]:
        """Every service that ever had a worker, or announced an event, sorted."""
        # The workers of an older choreo register handlers only.
        return sorted({name.partition(".")[0] for name in self.handlers()} | self._programs.services())

    @property
    def recording(self) -> Recording:
        """What this store records of runs."""
        return self._recording

    def note_unheard(self, source: str, counts: Mapping[str, int]) -> None:
        """Count events that reached no queue."""
        pairs = [part for pair in counts.items() for part in pair]
        self._run("note_unheard", [f"{self.prefix}:unheard"], [source, MOST_UNHEARD, *pairs])

    def unheard(self) -> dict[str, UnheardType]:
        """The types of events that reached no queue, sorted."""
        fields = self._calls.ask(lambda client: client.hgetall(f"{self.prefix}:unheard"))
        texts = {name.decode(errors="replace"): text.decode(errors="replace") for name, text in fields.items()}
        found = {}
        for kind in sorted(name[2:] for name in texts if name.startswith("n ")):
            last, _, source = texts.get(f"t {kind}", "").partition(" ")
            with suppress(ValueError):  # another program has written something else there
                found[kind] = UnheardType(int(texts[f"n {kind}"]), int(last) / 1000, source)
        return found

    def note_repair(self, text: str) -> None:
        """Append an entry to the log of repairs."""
        key = f"{self.prefix}:repairs"
        self._calls.ask(lambda client: client.xadd(key, {"": text}, maxlen=MOST_REPAIRS, approximate=True))

    def repairs(self, limit: int) -> list[tuple[float, str]]:
        """The newest ``limit`` entries of the log of repairs, newest first: when each was made, and its text."""
        found = self._calls.ask(lambda client: client.xrevrange(f"{self.prefix}:repairs", count=limit))
        return [(time_of(number), fields.get(b"", b"").decode(errors="replace")) for number, fields in found]

    def ping(self) -> None:
        """Raise `StoreError` unless the server answers."""
        # A command with a key: a cluster sends it to one node.
        self._calls.ask(lambda client: client.exists(f"{self.prefix}:handlers"))

    def servers(self) -> dict[str, Mapping[str, Any]]:
        """Each server that takes writes → its answer to INFO."""

        def ask(client: Any) -> dict[str, Mapping[str, Any]]:
            found = {}
            for server, info in servers(client, self.url):
                with suppress(ResponseError):  # this user may not ask
                    found[server] = info()
            return found

        return self._calls.ask(ask)

    def watch(self) -> None:
        """Log that the server evicts keys, or may."""
        with suppress(StoreError):
            for server, ask in self._calls.ask(lambda client: servers(client, self.url)):
                watch(server, ask)


def _by_handler(claims: Sequence[Claim]) -> dict[str, list[int]]:
    """Handler → the numbers of its claims."""
    found: dict[str, list[int]] = {}
    for number, claim in enumerate(claims):
        found.setdefault(claim.handler, []).append(number)
    return found


def _committed(answer: Sequence[bytes], settlement: Settlement, repeated: bool) -> CommitResult:
    """The answer of commit.lua as a `CommitResult`. ``repeated``: it was sent more than once."""
    outcome = Outcome(answer[0].decode())
    return CommitResult(outcome, settlement.sent if outcome is Outcome.OK else {}, repeated=repeated)


def claim_result(answer: list[Any]) -> ClaimResult:
    """The answer of begin.lua or arrive.lua as a `ClaimResult`."""
    verdict = Verdict(answer[0].decode())
    if verdict is Verdict.BUSY:
        return ClaimResult(verdict, busy_seconds=answer[1] / 1000)
    if verdict is Verdict.DONE:
        return ClaimResult(verdict, note=answer[1].decode() if len(answer) > 1 else "")
    if verdict is Verdict.WAIT:
        return ClaimResult(verdict, answer[1], note=answer[2].decode())
    fields = [text.decode() for text in answer[2:]]
    # Counts are kept beside the parts, under names with '#' or '?'. Each part's text follows its time of arrival.
    parts = {
        name: text.partition(" ")[2]
        for name, text in zip(fields[::2], fields[1::2], strict=True)
        if name[0] not in "#?"
    }
    return ClaimResult(verdict, deliveries=answer[1], parts=parts)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _letter_args(letter_id: str, letter: str, card: Card | None = None) -> tuple[str, ...]:
    """The arguments of settle.lua for a dead letter."""
    filed = ("", "", "") if card is None else (card.group, card.about, card.subjects_text())
    return letter_id, letter, *filed


def _remembered(unit: str) -> str:
    """The unit's id in the inbox; "" for a join, whose own HASH stays, since it counts parts that come late."""
    return "" if unit.startswith("join:") else unit


def _attempt(claim: Claim) -> str:
    return f"{claim.attempt}:{claim.signal}" if claim.signal else str(claim.attempt)


def _with_outbox(settlement: Settlement) -> Settlement:
    """The settlement, whose messages wait in the schedule."""
    if not settlement.sent:
        return settlement
    outbox = [Scheduled(key, message, OUTBOX_GRACE) for key, message in settlement.sent.items()]
    return replace(settlement, scheduled=[*settlement.scheduled, *outbox])


def _outcome_in(text: bytes) -> Outcome:
    """The outcome of one of several claims. LOST for an error of Redis: nothing of that claim is settled."""
    try:
        return Outcome(text.decode(errors="replace"))
    except ValueError:
        logger.error("a claim was not settled: %s", explained(ResponseError(text.decode(errors="replace"))))
        return Outcome.LOST
