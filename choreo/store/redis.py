"""The store in Redis, or in a Redis Cluster: one Lua script per decision.

All keys of one handler have the same hash tag (``choreo:{payment.charge_customer}:due``), so that a Redis Cluster
keeps them in one slot; so have the keys of one service's workers, and of the delayed events. The three keys of the
whole platform (``choreo:handlers``, ``choreo:joins`` and ``choreo:services``) are in a slot each. No call reads keys of
two slots.

While a slot moves, a cluster refuses a script of several keys unless all the keys that it names are there. A script
that also uses keys which it does not name could stop in the middle. So it names the start of the inbox's keys, which is
never a key itself: the whole script is then refused.

Every script begins with a comment on its keys, arguments and answers.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import sha1
from typing import Any

from redis.exceptions import ResponseError

from choreo.errors import StoreError
from choreo.events.message import Message
from choreo.events.patterns import Binding
from choreo.redis_client.cluster import servers
from choreo.redis_client.evictions import watch
from choreo.redis_client.scripts import Script
from choreo.redis_client.wire import Argument
from choreo.store.calls import Calls
from choreo.store.claims import OUTBOX_GRACE, Claim, ClaimResult, CommitResult, LastEnd, Outcome, Settlement, Verdict
from choreo.store.joins import Arrival, JoinState
from choreo.store.port import Store
from choreo.store.presence import Presence, Program
from choreo.store.redis_programs import RedisPrograms
from choreo.store.redis_runs import RedisRuns, Tending
from choreo.store.redis_search import RedisSearch
from choreo.store.register import MOST_UNHEARD, Declared, Listening, UnheardType
from choreo.store.runs import Recording, Run, entries
from choreo.store.schedule import DEADLINE_PREFIX, DELAYED, Backlog, Scheduled, Unreadable, deadline_id
from choreo.store.search import MOST, Kept, KeptUnit
from choreo.store.terms import Terms

#: How a schedule id that is no UTF-8 becomes a text, and bytes again.
_ESCAPED = "surrogateescape"


class RedisStore(Store):
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
        self._lease, self._retention = _ms(terms.lease.total_seconds()), _ms(terms.retention.total_seconds())
        self.prefix = prefix
        self._recording = recording
        self._record_args = f"{recording.shelf_length} {_ms(recording.lifetime.total_seconds())}"
        self._calls = Calls(url, ssl, transport)
        self._fixed_keys: dict[str, list[str]] = {}
        self._tending = Tending(recording.lifetime.total_seconds())

    def _run(self, name: str, keys: Sequence[Argument], args: Sequence[Any]) -> Any:
        return self._calls.run(Script.load(f"store/{name}"), keys, args)

    def _key(self, name: str, *parts: str) -> str:
        return ":".join((self.prefix, f"{{{name}}}", *parts))

    def _unit(self, handler: str, unit: str) -> tuple[str, str]:
        start = f"{self.prefix}:{{{handler}}}:"
        return f"{start}unit:{unit}", f"{start}parts:{unit}"

    def _done(self, handler: str) -> str:
        """The start of the names of the keys of the handler's inbox: see inbox.lua."""
        return self._key(handler, "done", "")

    def _calendar(self, name: str) -> tuple[str, str]:
        return self._key(name, "due"), self._key(name, "messages")

    def _cabinet(self, handler: str) -> tuple[str, str]:
        return self._key(handler, "letters"), self._key(handler, "letters", "index")

    def _lease_args(self, claim: Claim) -> list[Any]:
        return [_attempt(claim), claim.token, self._lease, self.terms.max_deliveries, self._retention]

    def begin(self, claim: Claim) -> ClaimResult:
        """Claim a unit."""
        return claim_result(self._run("begin", *self._beginning(claim)))

    def _beginning(self, claim: Claim) -> tuple[list[str], list[Any]]:
        """Keys and arguments of begin.lua."""
        keys = [*self._unit(claim.handler, claim.unit), self._done(claim.handler)]
        return keys, [*self._lease_args(claim), _remembered(claim.unit), self._in_flight(claim), claim.once]

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
            _ms(arrival.within),
            deadline_id(claim.unit),
            arrival.at_least,
            self._in_flight(claim),
            int(ahead),
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

    def commit(self, claim: Claim, settlement: Settlement) -> CommitResult:
        """Settle a claim."""
        outbox = [Scheduled(key, message, OUTBOX_GRACE) for key, message in settlement.sent.items()]
        args = self._settlement_args(claim, settlement, [*settlement.scheduled, *outbox])
        keys, args = self._settlement_keys(claim.handler), [*self._first_args(claim.handler), *args]
        (outcome,), repeated = self._calls.run_once(Script.load("store/commit"), keys, args)
        committed = Outcome(outcome.decode())
        return CommitResult(committed, settlement.sent if committed is Outcome.OK else {}, repeated=repeated)

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
        letter, unwanted, took_part = settlement.letter or (), settlement.unscheduled, settlement.took_part
        kept = "2" if _remembered(claim.unit) and not letter else settlement.note
        retention = max(self._retention, _ms(settlement.remember))
        recorded = entries(settlement.run) if settlement.run is not None else ()
        shape = ""
        if letter or unwanted or scheduled or messages or took_part or recorded or settlement.counted:
            counts = f"{len(letter) // 2} {len(unwanted)} {len(scheduled)} {messages} {len(took_part)}"
            shape = f"{counts} {len(recorded)} {settlement.counted}".rstrip()
        args: list[Any] = [claim.token, _attempt(claim), kept if settlement.done else 0, retention, claim.unit, shape]
        args += (*letter, *unwanted)
        for entry in scheduled:
            args += _arguments(entry)
        if took_part:
            args += [_ms(settlement.retention) or self._retention, *took_part]
        for name, text in recorded:
            args += (self._tending.marked(claim.handler, name), text)
        return args

    def schedule(self, name: str, scheduled: Scheduled) -> None:
        """Keep a message for later."""
        self._run("schedule", self._calendar(name), _arguments(scheduled))

    def unschedule(self, name: str, schedule_id: str) -> bool:
        """Remove a message that no worker has been given yet. False when it is too late, or there is none."""
        return bool(self._run("unschedule", self._calendar(name), [schedule_id]))

    def now(self) -> float:
        """Seconds since 1970, by the server's clock."""
        # In a cluster, of the node that has the delayed events.
        return self._calls.time(self._calendar(DELAYED)[0])

    def tend(self, name: str, seconds: float) -> None:
        """Report that a worker looks into this schedule, and will for ``seconds``."""
        self._calls.ask(lambda client: client.set(self._key(name, "tended"), 1, px=_ms(seconds)))

    def tended(self, name: str) -> bool:
        """True if a worker looks into this schedule."""
        return bool(self._calls.ask(lambda client: client.exists(self._key(name, "tended"))))

    def ripe(self, names: Sequence[str]) -> list[str]:
        """The names of the schedules in which a message is due."""
        first = "0 +inf WITHSCORES LIMIT 0 1".split()
        looks = [("ZRANGEBYSCORE", self._calendar(name)[0], *first) for name in names]
        answers = self._calls.timed(looks)
        return [name for name, (now, answer) in zip(names, answers, strict=True) if _is_due(answer, now)]

    def due(self, name: str, limit: int, hold: float) -> list[tuple[str, Message | Unreadable | None]]:
        """Up to ``limit`` messages that are due. They are due again after ``hold`` seconds unless `sent` is called."""
        answer = self._run("due", self._calendar(name), [limit, _ms(hold)])
        # Another program may have put any bytes there.
        entries = [(key.decode(errors=_ESCAPED), text) for key, text in zip(answer[::2], answer[1::2], strict=True)]
        return [(key, _entry(key, text)) for key, text in entries]

    def sent(self, name: str, ids: Sequence[str]) -> None:
        """Remove messages that the broker has. A deadline stays, as one that was sent."""
        if strange := [key for key in ids if not _is_utf8(key)]:
            self._remove(name, [key.encode(errors=_ESCAPED) for key in strange])
        if plain := [key for key in ids if key not in strange]:
            self._run("sent", self._calendar(name), plain)

    def _remove(self, name: str, ids: Sequence[bytes]) -> None:
        """Remove entries whose ids a script cannot be called with."""
        due, messages = self._calendar(name)
        self._calls.ask(lambda client: client.zrem(due, *ids))
        self._calls.ask(lambda client: client.hdel(messages, *ids))

    def backlog(self, name: str) -> Backlog:
        """How much waits in the schedule."""
        due, messages = self._calendar(name)
        now = self._calls.time(due) * 1000

        def count(pipeline: Any) -> None:
            pipeline.zcount(due, 0, now)
            pipeline.zrangebyscore(due, 0, now, start=0, num=1, withscores=True)
            pipeline.zcount(due, f"({now}", "+inf")
            pipeline.zrangebyscore(due, f"({now}", "+inf", start=0, num=1, withscores=True)
            pipeline.zcount(due, "-inf", "(0")
            pipeline.hlen(messages)

        ready, first, later, following, reminded, messages_there = self._calls.together(count)
        late = max(now - first[0][1], 0) / 1000 if first else 0.0
        # A deadline is the only entry that has no message.
        joins = max(ready + later + reminded - messages_there, 0)
        return Backlog(ready, late, later, following[0][1] / 1000 if following else None, reminded, joins)

    def upcoming(self, name: str, seconds: float, limit: int) -> list[tuple[str, float]]:
        """Ids of entries that fall due within so many seconds, and when: the first ``limit`` of them."""
        due = self._calendar(name)[0]
        now = self._calls.time(due) * 1000
        found = self._calls.ask(
            lambda client: client.zrangebyscore(due, f"({now}", now + seconds * 1000, 0, limit, withscores=True)
        )
        return [(key.decode(errors=_ESCAPED), at / 1000) for key, at in found]

    def add_letter(self, handler: str, letter_id: str, letter: str, scheduled: Sequence[Scheduled] = ()) -> None:
        """Record a dead letter outside any unit."""
        # A delivery that cannot be read has no unit. Its dead letter is settled with a unit of its own.
        claim = Claim(handler, f"letter:{letter_id}", letter_id)
        self.begin(claim)
        outcome = self.commit(claim, Settlement(letter=(letter_id, letter), scheduled=scheduled)).outcome
        if outcome not in (Outcome.OK, Outcome.ALREADY):
            raise StoreError(f"the dead letter {letter_id} of {handler} was not recorded: its claim is {outcome.value}")

    def letters(self, handler: str) -> list[str]:
        """The dead letters of a handler as JSON, oldest first."""
        letters, index = self._cabinet(handler)
        ids = self._calls.ask(lambda client: client.zrange(index, 0, -1))
        found = self._calls.ask(lambda client: client.hmget(letters, ids)) if ids else []
        return [letter.decode() for letter in found if letter is not None]

    def letter_count(self, handler: str) -> int:
        """The number of dead letters of a handler."""
        return int(self._calls.ask(lambda client: client.hlen(self._cabinet(handler)[0])))

    def letter_times(self, handler: str) -> tuple[float, float] | None:
        """When the oldest and newest letter of a handler were recorded, in seconds since 1970; None: it has none."""
        index = self._cabinet(handler)[1]

        def ask(pipeline: Any) -> None:
            pipeline.zrange(index, 0, 0, withscores=True)
            pipeline.zrange(index, -1, -1, withscores=True)

        first, last = self._calls.together(ask)
        return (first[0][1] / 1000, last[0][1] / 1000) if first and last else None

    def newest_letters(self, handler: str, limit: int) -> list[tuple[float, str]]:
        """The newest ``limit`` letters of a handler, oldest first: when each was recorded, and its JSON."""
        letters, index = self._cabinet(handler)
        times = self._calls.ask(lambda client: client.zrange(index, -limit, -1, withscores=True))
        found = self._calls.ask(lambda client: client.hmget(letters, [key for key, _ in times])) if times else []
        together = zip(times, found, strict=True)
        return [(at / 1000, letter.decode()) for (_, at), letter in together if letter is not None]

    def letter(self, handler: str, letter_id: str) -> str | None:
        """One dead letter as JSON; None if there is none with this id."""
        letter = self._calls.ask(lambda client: client.hget(self._cabinet(handler)[0], letter_id))
        return None if letter is None else letter.decode()

    def discard(self, handler: str, letter_id: str) -> bool:
        """Remove a dead letter. False when there was none."""
        letters, index = self._cabinet(handler)

        def remove(client: Any) -> bool:
            with client.pipeline(transaction=True) as pipeline:
                pipeline.hdel(letters, letter_id)
                pipeline.zrem(index, letter_id)
                return bool(pipeline.execute()[0])

        return self._calls.ask(remove)

    def replay(
        self,
        handler: str,
        letter_id: str,
        unit: str | None,
        parts: Mapping[str, str],
        scheduled: Scheduled,
    ) -> bool:
        """Remove a dead letter, forget that its unit was settled, and schedule its message. False if there was none."""
        keys = [
            *self._unit(handler, unit or f"letter:{letter_id}"),
            *self._calendar(handler),
            *self._cabinet(handler),
            self._done(handler),
        ]
        args: list[Any] = [letter_id, *_arguments(scheduled), self._retention, _remembered(unit or "")]
        for part, envelope in parts.items():
            args += [part, envelope]
        return bool(self._run("replay", keys, args))

    def register(self, handlers: Sequence[str]) -> None:
        """Record these handlers."""
        if handlers:
            self._calls.ask(lambda client: client.sadd(f"{self.prefix}:handlers", *handlers))

    def handlers(self) -> list[str]:
        """Every handler that was ever registered, sorted."""
        names = self._calls.ask(lambda client: client.smembers(f"{self.prefix}:handlers"))
        return sorted(name.decode() for name in names)

    def declare(
        self, service: str, worker: str, bindings: Sequence[Binding], ttl: float, removed: Sequence[Binding] = ()
    ) -> Declared:
        """Report that a worker lives and declares these bindings, and find the bindings that may be removed."""
        keys = [self._key(service, name) for name in ("workers", "bindings", "queues")]
        pairs = [" ".join(pair) for pair in (*bindings, *removed)]
        known, *lists = self._run("declare", keys, [worker, _ms(ttl), len(bindings), *pairs])
        stale, to_restore = (sorted(text.decode() for text in texts) for texts in lists)
        return Declared(bool(known), [_pair(text) for text in stale], [_pair(text) for text in to_restore])

    def declared(self, service: str) -> dict[str, list[Binding]]:
        """The live workers of a service, and the bindings that each declares."""
        key = self._key(service, "workers")
        workers, seconds = self._calls.ask(lambda client: client.hgetall(key)), self._calls.time(key)
        found = {}
        for worker, record in workers.items():
            until, *bindings = record.decode().split("\n")
            if int(until) / 1000 > seconds:
                found[worker.decode()] = [_pair(text) for text in bindings]
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
            frozenset(_pair(text.decode()) for text in bindings),
            [frozenset(_pair(text)[0] for text in declared) for declared in live],
        )

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

    @cached_property
    def _runs(self) -> RedisRuns:
        return RedisRuns(self._calls, self._key)

    def runs(self, handler: str, story: str, subject: str | None = None) -> list[Run]:
        """The recorded runs of a handler that belong to this story, oldest first."""
        return self._runs.runs(handler, story, subject)

    def stories(self, handler: str, subject: str) -> list[str]:
        """The stories with this subject of which this handler recorded the first event, or a change of subject."""
        return self._runs.stories(handler, subject)

    def story_of(self, handler: str, event: str) -> str | None:
        """The story of an event that this handler handled or announced."""
        return self._runs.story_of(handler, event)

    def recent(self, handler: str, seconds: float, limit: int = 1000) -> list[Run]:
        """Runs whose outcome was recorded within the last ``seconds``, oldest first."""
        return self._runs.recent(handler, seconds, limit)

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

    @cached_property
    def _search(self) -> RedisSearch:
        return RedisSearch(self._calls, self._key)

    def find_scheduled(self, name: str, texts: Sequence[str], most: int = MOST) -> tuple[list[Kept], bool]:
        """The messages in this schedule that contain one of the texts; True if all were looked at."""
        return self._search.find_scheduled(name, texts, most)

    def find_letters(self, handler: str, texts: Sequence[str], most: int = MOST) -> tuple[list[str], bool]:
        """The dead letters of this handler, as JSON, that contain one of the texts; True if all were looked at."""
        return self._search.find_letters(handler, texts, most)

    def unit(self, handler: str, unit: str) -> KeptUnit | None:
        """A unit that has begun and is not finished; None if there is none, or it is finished."""
        return self._search.unit(handler, unit)

    def namespaces(self) -> list[str] | None:
        """The namespaces of the platforms on this server; None if there are too many keys to look at."""
        return self._search.namespaces(self.prefix.partition(":")[0])

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


def _is_due(first: Any, now: Any) -> bool:
    """True if the first entry of a schedule is due: [[id, score]] or, in the older protocol RESP2, [id, score]."""
    if isinstance(first, Exception) or isinstance(now, Exception):
        return True  # `due` will then raise the error
    entry = first[0] if first and isinstance(first[0], list) else first
    # The half: see due.lua.
    return bool(entry) and float(entry[1]) <= int(now[0]) * 1000 + int(now[1]) // 1000 + 0.5


def _entry(key: str, text: bytes) -> Message | Unreadable | None:
    """One entry of a schedule; None for a join's deadline, which has no message."""
    if not text and key.startswith(DEADLINE_PREFIX):
        return None
    try:
        return Message.from_json(text)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        return Unreadable(text, f"it cannot be read: {type(error).__name__}: {error}")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _arguments(scheduled: Scheduled) -> list[Any]:
    return [scheduled.id, _ms(scheduled.delay), scheduled.message.to_json()]


def _remembered(unit: str) -> str:
    """The unit's id in the inbox; "" for a join, whose own HASH stays, since it counts parts that come late."""
    return "" if unit.startswith("join:") else unit


def _attempt(claim: Claim) -> str:
    return f"{claim.attempt}:{claim.signal}" if claim.signal else str(claim.attempt)


def _pair(text: str) -> Binding:
    queue, _, pattern = text.partition(" ")
    return queue, pattern


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
