"""
Redis as a broker that loses nothing: a kombu transport on top of kombu's own.

The life of a message::

    publish ──broadcast.lua──> queue ──take.lua──> in flight ──ack──> gone
                                 ^                    │
                                 └───give_back.lua────┘   requeued, or its consumer stopped or died

*Publish.* One script finds the queues bound for the routing key (AMQP's meaning of `*` and `#`, whether or not
this process ever declared the exchange) and puts a distinct copy into each: all queues or none. A copy has its own
delivery tag and is addressed to its one queue (exchange `''`, routing key = queue), so that whatever happens to it
later happens in that queue only. `Channel.queues_reached` says how many there were.

*Queue.* A plain list under the queue's own name (with kombu's suffix per priority); the right end is next. Beside
each queue there is a token to wake up a waiting consumer, which sends "wait for a token" and "take" in one go.
Losing a token costs a second, not a message.

*In flight.* One script moves up to the free prefetch from the queues into the consumer's own hash
`_choreo.inflight.<owner>` (tag -> queue, token, message), and acks earlier ones on the way. At no moment is a
message in a process's memory only.

*Claim.* A queue may be consumed with the argument `keys.INBOX`, which says where its handler remembers what it has
done. Then taking also drops what was done before, and claims the rest. See `choreo.store.beside`.

*Ack.* Removes the record, if it still is this owner's. `Lease.of(message.properties)` names the key and the field,
so that a script can ask "still mine?" and ack as part of a larger step, in a pool child as well.

*Return.* A requeued message goes to the front of its own queue. A consumer that stops returns at once what was not
acked, in the original order; inside a Celery worker that shuts down, what has not started yet returns after
`UNSTARTED_SECONDS`, while the rest is being finished. A consumer that dies is silent, and after `consumer_timeout`
seconds any other consumer returns its messages. See `ownership.py`.

A message that comes back after a delivery has `properties.delivery_info["redelivered"] = True`. Failed attempts
(requeued, or the consumer died) are counted in `headers["x-delivery-count"]`; a clean stop is no failed attempt.
A dead consumer's prefetched messages are counted along with the one that killed it: nobody can tell them apart.

Transport options, beside those of kombu's Redis transport:

- `consumer_timeout` (15): seconds of silence after which a consumer counts as dead.
- `socket_timeout` (10), `socket_connect_timeout` (5), `socket_keepalive` (True): kombu's defaults wait for ever.

`visibility_timeout` and the `unacked_*` options have no meaning here: nothing becomes visible by the passing of time.
Fanout exchanges (remote control, worker events) stay kombu's PUBLISH and SUBSCRIBE: who is away misses them.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from queue import Empty
from time import monotonic
from typing import Any
from uuid import uuid4

from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as kombu_redis
from kombu.transport.virtual.exchange import DirectExchange, TopicExchange
from redis import exceptions
from redis.exceptions import NoScriptError, RedisError, ResponseError

from choreo.broker import ownership as owning
from choreo.broker import scripts, settings
from choreo.broker.commits import Commits
from choreo.broker.keys import CERTAIN_UNTIL, CLAIM, INBOX, INFLIGHT, OWNER, TAG, Keys, Lease, machine_time
from choreo.broker.ownership import Ownership, Tag
from choreo.broker.packing import dumps, encode_body, head_of_copies, unpack
from choreo.broker.poller import Poller
from choreo.broker.wire import Part, Wire, pack

__all__ = ["Channel", "Lease", "SentinelChannel", "SentinelTransport", "Transport"]

#: The most messages taken at once, however large the prefetch is.
BATCH = 100

#: With an event loop, deliveries pause after this long, so that signals, remote control and timers get their turn.
SLICE_SECONDS = 0.01

#: The part of `consumer_timeout` for which a handler may begin on the claim that its message was taken with.
CERTAIN = 0.8

#: A worker that shuts down returns what has not started after this long: by then no pool starts anything new.
UNSTARTED_SECONDS = 1.0


class Topic(TopicExchange):
    """A topic exchange whose queues are found by Redis."""

    def deliver(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> int:
        reached: int = self.channel.broadcast(message, exchange, routing_key, **kwargs)
        return reached


class Direct(DirectExchange):
    """A direct exchange whose queues are found by Redis."""

    def deliver(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> int:
        reached: int = self.channel.broadcast(message, exchange, routing_key, **kwargs)
        return reached


class QoS(virtual.QoS):
    """What was delivered and not acked yet. The records themselves are in Redis before anything is delivered."""

    def append(self, message: Any, delivery_tag: str) -> None:
        message.delivery_tag = tag = Tag(delivery_tag)
        super().append(message, tag)

    def ack(self, delivery_tag: str) -> None:
        self.channel.ack_later(delivery_tag)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self.channel.requeue(delivery_tag)
            super().ack(delivery_tag)
        else:
            self.ack(delivery_tag)

    def unacked(self) -> list[Tag]:
        """The tags of what was delivered and neither acked nor rejected."""
        self._flush()
        return list(self._delivered)

    def restore_unacked(self) -> list[Any]:
        """Return everything unacked, as AMQP's basic.recover does."""
        self.channel.give_back(self.unacked(), counted=False)
        self._delivered.clear()
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:  # noqa: ARG002  # kombu's signature
        """At the end of the channel or the process."""
        self._on_collect.cancel()
        self.channel.settle()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a consumer's own thread looks after dead consumers."""


class Channel(kombu_redis.Channel):
    """A channel that owns what it takes, and gives back what it does not finish."""

    QoS = QoS
    body_encoding = "utf-8"
    exchange_types = {**virtual.Channel.exchange_types, "topic": Topic, "direct": Direct}

    socket_timeout = 10.0
    socket_connect_timeout = 5.0
    socket_keepalive = True
    consumer_timeout = owning.CONSUMER_TIMEOUT

    #: How many queues the last publish reached.
    queues_reached = 0

    from_transport_options = (*kombu_redis.Channel.from_transport_options, "consumer_timeout")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pid = os.getpid()
        self._settled = False
        self._ownership: Ownership | None = None
        #: Taken, but not delivered yet: (queue, tag, text, what was claimed for it).
        self._arrived: deque[tuple[str, str, bytes, dict[str, Any]]] = deque()
        #: The take that is under way: its acks, its queues, the tags it may give, and the time.
        self._taking: tuple[list[str], list[str], list[str], float] | None = None
        #: Whether it waits for a token first.
        self._waiting = False
        #: Whether the next poll takes at once instead of waiting for a token.
        self._expecting = True
        self._sequence = 0
        self._noack: set[str] = set()
        #: The keys that were named as being no queues.
        self._named: set[bytes] = set()
        #: Where the handlers of consumed queues remember what they have done: see lua/claim.lua.
        self._inboxes: dict[str, str] = {}
        self._delivering: int | None = None
        super().__init__(*args, **kwargs)

    # -- connections -----------------------------------------------------------------------------------------------

    @cached_property
    def keys(self) -> Keys:
        return Keys(self.global_keyprefix)

    @cached_property
    def wire(self) -> Wire:
        """The held connection for everything but waiting."""
        return Wire(lambda: self.pool)

    @property
    def line(self) -> Commits | None:
        """
        Where commits can be sent ahead: with an event loop, which fetches the answers when nothing is left to do.

        For a worker that runs its handlers in the loop's own thread, as the solo pool does.
        """
        return self._commits if self.connection.cycle.hub is not None else None

    @cached_property
    def _commits(self) -> Commits:
        commits = Commits(Wire(lambda: self.pool), self._own)
        self._own().watch(commits.settle_old)
        return commits

    def _settle_commits(self) -> None:
        commits: Commits | None = self.__dict__.get("_commits")
        if commits is not None:
            commits.settle()

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Kombu builds a client for each command; one per channel does."""
        yield client or self._shared_client

    @cached_property
    def _shared_client(self) -> Any:
        return self._create_client()

    def _disconnect_pools(self) -> None:
        # They were made from the pools that go now.
        for part in ("_commits", "wire"):
            made = self.__dict__.pop(part, None)
            if made is not None:
                made.close()
        self.__dict__.pop("_shared_client", None)
        super()._disconnect_pools()

    def _pool_of_its_own(self) -> Any:
        """A pool for the ownership, which may outlive this channel."""
        managers = {name: getattr(self, name) for name in ("_sentinel_manager", "_async_sentinel_manager")}
        try:
            return self._get_pool()
        finally:
            self.__dict__.update(managers)

    # -- publishing ------------------------------------------------------------------------------------------------

    def _inplace_augment_message(self, message: dict[str, Any], exchange: str, routing_key: str) -> None:
        body, encoding = message["body"], self.body_encoding
        if encoding == "utf-8":
            message["body"], encoding = encode_body(body, message.get("headers"))
        else:
            message["body"], encoding = self.encode_body(body, encoding)
        properties = message["properties"]
        properties.update(body_encoding=encoding, delivery_tag=self._next_delivery_tag())
        properties["delivery_info"].update(exchange=exchange, routing_key=routing_key)

    def typeof(self, exchange: str, default: str = "direct") -> Any:
        """The exchange's type as declared here, else as Redis knows it, so that no topic is taken for direct."""
        if exchange in self.state.exchanges:
            return super().typeof(exchange, default)
        known: dict[str, str] = self.connection.exchange_types_known
        if exchange not in known:
            kind = self.wire.command("HGET", self.keys.exchanges, exchange)
            if kind is None:
                # Nothing is bound to it; the script decides by the bindings should that change this very moment.
                return self.exchange_types["topic"]
            known[exchange] = kind.decode()
        return self.exchange_types[known[exchange]]

    def broadcast(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> int:
        """Put a copy into each bound queue, in one step. Returns how many there are."""
        priority = self._q_for_pri("", self._get_message_priority(message, reverse=False))
        prefix = self.global_keyprefix
        keys = [prefix + self.keyprefix_queue % exchange, self.keys.routes(exchange)]
        tag = message["properties"]["delivery_tag"]
        args = [routing_key, self.sep, prefix, priority, self.keys.token(""), head_of_copies(message), tag]
        batch = kwargs.get("_publish_batch")
        if batch is not None:
            # A pipeline cannot load a script half way, so the script itself is sent.
            batch.add("eval", scripts.BROADCAST.source, len(keys), *keys, *args)
            return 0
        reached: int = self.wire.call(scripts.BROADCAST, keys, args)
        if not reached and self.deadletter_queue:
            self._put(self.deadletter_queue, message)
        self.queues_reached = reached
        return reached

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> int:
        """Put a message into one queue."""
        priority = self._get_message_priority(message, reverse=False)
        prefix, expires = self.global_keyprefix, self._expires.get(queue, 0)
        keys = [prefix + self._q_for_pri(queue, priority), self.keys.token(queue)]
        if expires:
            keys += [prefix + self._q_for_pri(queue, step) for step in self.priority_steps]
        args = [dumps(message), expires]
        batch = kwargs.get("_publish_batch")
        if batch is not None:
            batch.add("eval", scripts.PUT.source, len(keys), *keys, *args)
            return 0
        self.wire.call(scripts.PUT, keys, args)
        self.queues_reached = 1
        return 1

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any) -> None:
        if kwargs.get("_publish_batch") is not None:
            super()._put_fanout(exchange, message, routing_key, **kwargs)
            return
        text = dumps(message)
        for topic in self._get_publish_topics(exchange, routing_key):
            self.wire.command("PUBLISH", self.global_keyprefix + topic, text)

    def _has_queue(self, queue: str, **_: Any) -> bool:
        # Kombu's own forgets the prefix.
        names = [self.global_keyprefix + self._q_for_pri(queue, step) for step in self.priority_steps]
        return bool(self.wire.command("EXISTS", *names))

    # -- bindings --------------------------------------------------------------------------------------------------

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        super()._queue_bind(exchange, routing_key, pattern, queue)
        triple = (exchange, self.typeof(exchange).type, self._member(routing_key, pattern, queue))
        epoch, _ = owning.bind(self.wire, self.keys, [triple])
        self._epoch = epoch
        self._watch_bindings()

    _epoch = ""

    def queue_unbind(
        self, queue: str, exchange: str = "", routing_key: str = "", arguments: Any = None, **_: Any
    ) -> None:
        """Remove a binding for good; kombu's own edits a copy of the table."""
        self.state.binding_delete(queue, exchange, routing_key)
        # Whoever unbinds need not have declared the exchange: both forms of the member go.
        topic = TopicExchange(self).prepare_bind(queue, exchange, routing_key, arguments)
        members = [self._member(*topic), self._member(routing_key, None, queue)]
        self.wire.call(
            scripts.UNBIND,
            [
                self.keys.bound,
                self.global_keyprefix + self.keyprefix_queue % exchange,
                self.global_keyprefix + self.keyprefix_binding_permanent % exchange,
                self.keys.routes(exchange),
            ],
            [exchange, uuid4().hex, *members],
        )
        self._watch_bindings()

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> None:
        """Delete a queue, its messages and every binding that leads to it, whoever made it."""
        if if_empty and self._size(queue):
            return
        prefix = self.global_keyprefix
        self.wire.call(
            scripts.FORGET,
            [self.keys.bound, self.keys.exchanges, self.keys.token(queue)],
            [
                queue,
                self.sep,
                prefix + self.keyprefix_queue % "",
                prefix + self.keyprefix_binding_permanent % "",
                self.keys.routes(""),
                uuid4().hex,
            ],
        )
        super().queue_delete(queue, if_unused=if_unused, **kwargs)
        self.auto_delete_queues.discard(queue)
        self._purge(queue)

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        super().exchange_delete(exchange, if_unused=if_unused, nowait=nowait)
        self.connection.exchange_types_known.pop(exchange, None)
        prefix = self.global_keyprefix
        self.wire.command(
            "DEL",
            prefix + self.keyprefix_queue % exchange,
            prefix + self.keyprefix_binding_permanent % exchange,
            self.keys.routes(exchange),
        )
        self.wire.command("HDEL", self.keys.bound, exchange)
        self.wire.command("HDEL", self.keys.exchanges, exchange)

    def _member(self, routing_key: str, pattern: str | None, queue: str) -> str:
        member: str = self.sep.join([routing_key or "", pattern or "", queue or ""])
        return member

    def _watch_bindings(self) -> None:
        """Tell the ownership which bindings to declare again should Redis lose them."""
        if self._ownership is None:
            return
        triples = []
        for queue in dict.fromkeys(self.active_queues):
            for exchange, routing_key, arguments in self.state.queue_bindings(queue):
                kind = self.typeof(exchange)
                member = self._member(*kind.prepare_bind(queue, exchange, routing_key, arguments))
                triples.append((exchange, kind.type, member))
        self._ownership.bindings = tuple(triples)
        self._ownership.epoch = self._ownership.epoch or self._epoch

    # -- consuming -------------------------------------------------------------------------------------------------

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> Any:
        if no_ack:
            self._noack.add(queue)
        else:
            self._noack.discard(queue)
        self._inboxes[queue] = (kwargs.get("arguments") or {}).get(INBOX, "")
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        self._expecting = True
        self._watch_bindings()
        return result

    def _basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        result = super()._basic_cancel(consumer_tag)
        if queue is not None and queue not in self._active_queues:
            self._return_arrived(queue)
            self._watch_bindings()
            self._return_unstarted_soon()
        return result

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """One message, if there is one."""
        packed, acks, tags = self._pack_take([queue], 1, no_ack)
        try:
            answer = self._send_take(packed)
        except BaseException:
            self._take_failed(acks, tags)
            raise
        if answer[0] == -1:
            self._own().beat()
            return self.basic_get(queue, no_ack, **kwargs)
        self._maybe_update_queues_expire(self._shared_client, queue)
        answer = self._without_troubles(answer)
        if len(answer) == 1:
            return None
        message = self.Message(self._payload(answer[2].decode(), answer[3]), channel=self)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return message

    def _send_take(self, packed: bytes) -> list[Any]:
        try:
            answer: list[Any] = self.wire.send_packed(packed)
        except NoScriptError:
            self.wire.load(scripts.TAKE)
            answer = self.wire.send_packed(packed)
        return answer

    def _own(self) -> Ownership:
        """This channel's ownership, registered when the first message is about to be taken."""
        if self._pid != os.getpid():
            self._start_afresh()
        if self._ownership is None:
            pool = self._pool_of_its_own()
            # A heartbeat that waits for longer than a beat is worth less than the next one.
            patience = float(self.consumer_timeout) / 3
            pool.connection_kwargs["socket_timeout"] = min(self.socket_timeout or patience, patience)
            own = Ownership(Wire(lambda: pool), self.keys, float(self.consumer_timeout))
            server = self.connection.client.as_uri().rpartition("@")[2]
            with _serving():
                own.start(lambda wire: settings.check(wire, server))
            self._ownership = own
            self._watch_bindings()
        return self._ownership

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Take messages: at once if some may be there or acks wait to be sent, else when a token comes, or its time."""
        if self._taking is not None:
            # Kombu gave up a connection that was silent for too long, and the answer to the take with it.
            self._forget_taking()
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        connection = self.client.connection
        at_once = self._expecting or self._arrived or (self._ownership is not None and self._ownership.has_acks)
        packed, acks, tags = self._pack_take(queues, self._room(), None)
        self._taking = acks, queues, tags, machine_time()
        if not at_once:
            # Both in one go: Redis carries out the second as soon as the first ends, and we need not wake up between.
            tokens = [self.keys.token(queue) for queue in queues]
            packed = pack(["BRPOP", *tokens, str(timeout or self.brpop_timeout or 0)]) + packed
        self._waiting = not at_once
        self._in_poll = connection
        self._brpop_sent_at = monotonic()
        try:
            connection.send_packed_command((packed,))
        except BaseException:
            self._forget_taking()
            raise

    def _room(self) -> int:
        free: int | None = self.qos.can_consume_max_estimate()
        if self._arrived:
            return 0  # first things first
        if "can_consume" in self.qos.__dict__:
            return 1  # worker_disable_prefetch decides one by one
        if free is None:
            return BATCH if self.connection.cycle.hub is not None else 1
        return min(free, BATCH)

    def _next_sequence(self, count: int) -> int:
        """Numbers are used up when they are asked for: an answer may get lost, a number must not be used twice."""
        before = self._sequence
        self._sequence += count
        return before

    def _pack_take(self, queues: list[str], limit: int, no_ack: bool | None) -> tuple[bytes, list[str], list[str]]:
        quick = [queue in self._noack if no_ack is None else no_ack for queue in queues]
        prefix, keys = self.global_keyprefix, self.keys
        owner, acks, inflight = "", [], keys.inflight("-")
        if not all(quick):
            own = self._own()
            acks, owner = own.take_acks(), own.owner
            inflight = keys.inflight(owner)
        names = [keys.consumers, inflight, *[keys.token(queue) for queue in queues]]
        names += [prefix + self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        turn = -(-limit // len(queues)) if self.queue_order_strategy == "round_robin" else limit
        flags = "".join("1" if flag else "0" for flag in quick)
        before = self._next_sequence(limit)
        inboxes = [self._inboxes.get(queue, "") if no_ack is None else "" for queue in queues]
        args: list[Part] = [owner, limit, turn, before, len(queues), flags, *inboxes, *acks]
        tags = [f"{owner}:{before + i}" for i in range(1, limit + 1)] if owner else []
        return pack(self.wire.evalsha(scripts.TAKE, names, args)), acks, tags

    def _brpop_read(self, **_: Any) -> bool:
        connection = self.client.connection
        try:
            if self._waiting:
                self._read_answer(connection)
                self._waiting = False
            answer = self._read_answer(connection)
        except BaseException:
            self._forget_taking()
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        taking, self._taking = self._taking, None
        if taking is None:
            raise Empty()
        return self._on_taken(answer, taking[1], taking[3])

    def _read_answer(self, connection: Any) -> Any:
        try:
            with _serving():
                try:
                    return connection.read_response()
                except NoScriptError:
                    self.wire.load(scripts.TAKE)
                    raise Empty() from None
        except self.connection_errors:
            # The next turn of the loop connects again.
            connection.disconnect()
            raise

    def _on_taken(self, answer: list[Any], queues: list[str], asked_at: float) -> bool:
        if answer[0] == -1:
            self._expecting = True
            with _serving():
                self._own().beat()
            raise Empty()
        answer = self._without_troubles(answer)
        self._expecting = answer[0] == 1
        # Some of the time is kept in hand for what lies between looking at the clock and calling the handler.
        certain_until = asked_at + float(self.consumer_timeout) * CERTAIN
        for i in range(1, len(answer), 4):
            claimed = {CLAIM: answer[i + 3].decode(), CERTAIN_UNTIL: certain_until} if answer[i + 3] else {}
            self._arrived.append((queues[answer[i] - 1], answer[i + 1].decode(), answer[i + 2], claimed))
        for queue in dict.fromkeys(queue for queue, *_ in self._arrived):
            self._queue_cycle.rotate(queue)
        if not self._arrived:
            raise Empty()
        if self.connection.cycle.hub is None:
            return self.deliver_one()
        self._deliver_slice()
        return True

    def _without_troubles(self, answer: list[Any]) -> list[Any]:
        """The answer to a take without the queues that are none, of which each is named once."""
        taken = answer[:1]
        for i in range(1, len(answer), 4):
            if answer[i] > 0:
                taken += answer[i : i + 4]
            elif answer[i + 2] not in self._named:
                self._named.add(answer[i + 2])
                owning.logger.error(owning.NO_LIST, answer[i + 2].decode())
        return taken

    def _forget_taking(self) -> None:
        """The take under way failed: its acks are sent again, and what it took although its answer is lost returns."""
        taking, self._taking = self._taking, None
        self._expecting, self._waiting = True, False
        if taking is not None:
            self._take_failed(taking[0], taking[2])

    def _take_failed(self, acks: list[str], tags: list[str]) -> None:
        if self._ownership is not None:
            self._ownership.put_back_acks(acks)
            self._ownership.return_lost(tags)

    @property
    def has_arrived(self) -> bool:
        """Whether messages were taken that are not delivered yet."""
        return bool(self._arrived)

    # -- delivering ------------------------------------------------------------------------------------------------

    def deliver_one(self) -> bool:
        """Deliver the oldest message that was taken and not delivered yet. False if there is none."""
        while self._arrived:
            queue, tag, text, claimed = self._arrived.popleft()
            if tag and not self._still_own(tag):
                continue
            if queue not in self.connection._callbacks:
                if tag:
                    self._own().give_back([tag], counted=False, untouched=[tag])
                continue
            self._delivering = threading.get_ident()
            try:
                self.connection._deliver(self._payload(tag, text, claimed), queue)
            finally:
                self._delivering = None
            return True
        return False

    def _deliver_slice(self) -> None:
        """
        With an event loop: deliver for a little while, then let the loop have its turn.

        What is left makes the next turn ask Redis for an answer that comes at once, and is delivered on that answer.
        A timer would not do: the loop waits for sockets before it carries out the acks that a timer's call left.
        """
        until = monotonic() + SLICE_SECONDS
        while not self.closed and self.deliver_one() and monotonic() < until:
            pass
        self._settle_commits()

    def _still_own(self, tag: str) -> bool:
        """False if this process slept so long that its messages went back."""
        own = self._own()
        if not own.is_fresh():
            with _serving():
                own.beat()
        return tag.startswith(own.owner)

    def _payload(self, tag: str, text: bytes, claimed: dict[str, Any] | None = None) -> dict[str, Any]:
        payload = unpack(text)
        properties = payload["properties"]
        properties["delivery_tag"] = tag or self._next_delivery_tag()
        if tag:
            owner = tag.rpartition(":")[0]
            properties["delivery_info"].update(
                {OWNER: owner, INFLIGHT: self.keys.inflight(owner), TAG: tag, **(claimed or {})},
            )
        return payload

    # -- acks ------------------------------------------------------------------------------------------------------

    def ack_later(self, tag: str) -> None:
        """
        Note an ack. It travels with the next take.

        With an event loop, what does not travel is sent in the loop's next turn.
        Without one it is sent at once, unless it comes from within a delivery, when it is sent after that.
        """
        own, commits = self._ownership, self.__dict__.get("_commits")
        if own is None or (commits is not None and commits.holds(tag)):
            return
        own.ack(tag)
        if self._pid != os.getpid() or self._settled or self.closed:
            return
        if self.connection.cycle.hub is None and self._delivering != threading.get_ident():
            self.flush_acks()

    def requeue(self, tag: str) -> None:
        """Return a delivered message to the front of its queue, counted as a failed attempt."""
        self.give_back([tag], counted=True)

    def give_back(self, tags: list[str], *, counted: bool) -> None:
        """Return delivered messages to the front of their queues; later if Redis is away, and not from a fork."""
        own = self._ownership
        if own is None or self._pid != os.getpid():
            return
        try:
            own.give_back(tags, counted=counted)
        except (RedisError, OSError) as exc:
            owning.logger.warning("cannot return %d message(s) now, it is tried again: %s", len(tags), exc)
            own.return_soon([str(tag) for tag in tags], counted=counted)

    def before_poll(self) -> None:
        """Send acks that no take will carry soon: one that waits is under way, or nothing more can be consumed."""
        own = self._ownership
        if own is None or not own.has_acks or self._settled or (self._taking is not None and not self._waiting):
            return
        if self._in_poll or not self.qos.can_consume() or not self.active_queues:
            self.flush_acks()

    def flush_acks(self) -> None:
        """Send the noted acks now."""
        if self._ownership is not None and self._ownership.has_acks:
            with _serving():
                self._ownership.flush(self.wire)

    # -- stopping --------------------------------------------------------------------------------------------------

    def _return_arrived(self, queue: str | None = None) -> None:
        """Return what was taken and not delivered, of one queue or of all."""
        tags = [tag for name, tag, *_ in self._arrived if tag and queue in (None, name)]
        self._arrived = deque(entry for entry in self._arrived if queue not in (None, entry[0]))
        if tags and self._ownership is not None:
            self._ownership.give_back(tags, counted=False, untouched=tags)

    def _return_unstarted_soon(self) -> None:
        """In a Celery worker that shuts down: return what no pool has started, while the rest is finished."""
        state = _celery_worker_state()
        if state is None or self._ownership is None or self.active_queues or not _is_stopping(state):
            return
        timer = threading.Timer(UNSTARTED_SECONDS, self._return_unstarted, [state])
        timer.daemon = True
        timer.start()

    def _return_unstarted(self, state: Any) -> None:
        own = self._ownership
        if own is None or self._settled:
            return
        started = _tags_of(state.active_requests)
        tags = [str(tag) for tag in tuple(self.qos._delivered) if tag not in started and tag not in self.qos._dirty]
        self.give_back(tags, counted=False)

    def settle(self) -> None:
        """The end of this channel's consuming: send the last acks, return the rest. Once; and never in a fork."""
        own = self._ownership
        if self._settled or own is None or self._pid != os.getpid():
            return
        self._settled = True
        self._settle_commits()
        untouched = [tag for _, tag, *_ in self._arrived if tag]
        self._arrived.clear()
        unacked = self.qos.unacked()
        self.qos._delivered.clear()
        if _has_running(unacked):
            # The worker lost its connection: its handlers go on, and ack later.
            own.retire(unacked)
            return
        try:
            own.leave(untouched)
        except (RedisError, OSError) as exc:
            owning.logger.warning(
                "consumer %s cannot return its messages now (%s); it keeps trying, and should this process end first, "
                "another consumer does it %g s later",
                own.owner,
                exc,
                own.timeout,
            )
            own.retire(())

    def close(self) -> None:
        if self._pid != os.getpid():
            self._abandon()
        elif not self.closed:
            self._drop_poll()
            self.settle()
        super().close()

    def _abandon(self) -> None:
        """In a forked child: closing must not cancel, delete or return anything on the parent's behalf."""
        self._start_afresh()
        self._settled, self._in_poll = True, None
        self._consumers.clear()
        self.auto_delete_queues.clear()

    def _drop_poll(self) -> None:
        """End what is under way on the polled connection. Kombu waits for the answer; all we could lose is a token."""
        connection = getattr(self.__dict__.get("client"), "connection", None)
        if self._in_poll and connection is not None:
            connection.disconnect()
        self._in_poll = None
        if self._taking is not None:
            self._forget_taking()

    def _after_fork(self) -> None:
        self._start_afresh()
        super()._after_fork()

    def _start_afresh(self) -> None:
        """In a forked child: what the parent took, and its claim on it, stay the parent's."""
        self._pid = os.getpid()
        self._arrived.clear()
        self._taking = self._ownership = None
        self._expecting, self._waiting = True, False
        self.__dict__.pop("wire", None)
        self.__dict__.pop("_commits", None)


@contextmanager
def _serving() -> Iterator[None]:
    """A server that refuses (read-only, out of memory, failing disk) is no server to consume from: reconnect."""
    try:
        yield
    except ResponseError as exc:
        raise exceptions.ConnectionError(f"Redis refuses: {exc}") from exc


def _celery_worker_state() -> Any:
    """`celery.worker.state`, if this process may be a Celery worker."""
    return sys.modules.get("celery.worker.state")


def _is_stopping(state: Any) -> bool:
    return any(flag is not None and flag is not False for flag in (state.should_stop, state.should_terminate))


def _tags_of(requests: Iterable[Any]) -> set[str]:
    return {str(request.message.delivery_tag) for request in tuple(requests)}


def _has_running(tags: Iterable[str]) -> bool:
    """Whether a Celery worker that goes on has handed some of these messages to its pool."""
    state = _celery_worker_state()
    if state is None or _is_stopping(state):
        return False
    return not _tags_of([*state.active_requests, *state.reserved_requests]).isdisjoint(tags)


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """The same for the master that Sentinel names."""

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, "consumer_timeout")


class Transport(kombu_redis.Transport):
    """
    For `redis://` and `rediss://`: `Connection(url, transport="choreo.broker.redis:Transport")`.

    In `redis+socket:///path` the URL itself names kombu's transport, whatever else is asked for:
    once this module is imported, `choreo+socket:///path` names this one.
    """

    Channel = Channel

    # Kombu counts KeyError as a broken connection, because of its own bookkeeping of sockets. A KeyError in a
    # handler or a callback is no reason to reconnect, and to reconnect for ever.
    connection_errors = tuple(error for error in kombu_redis.Transport.connection_errors if error is not KeyError)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        #: Types of exchanges that were not declared here but looked up.
        self.exchange_types_known: dict[str, str] = {}

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self.cycle.hub = loop
        super().register_with_event_loop(connection, loop)


class SentinelTransport(Transport):
    """`sentinel://`, with the transport option `master_name`."""

    default_port = kombu_redis.SentinelTransport.default_port
    Channel = SentinelChannel


TRANSPORT_ALIASES["choreo"] = "choreo.broker.redis:Transport"
