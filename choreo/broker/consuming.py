"""
The consuming half of the Redis transport: what is taken is in flight, and belongs to its taker until it is acked.

See `choreo.broker.redis` for the life of a message, and `ownership.py` for who owns what.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import Empty
from time import monotonic
from typing import Any

from redis import exceptions
from redis.exceptions import NoScriptError, RedisError, ResponseError

from choreo.broker import ownership as owning
from choreo.broker import scripts, settings, workload
from choreo.broker.commits import Commits
from choreo.broker.keys import AHEAD, CERTAIN_UNTIL, CLAIM, INBOX, INFLIGHT, OWNER, SHORTCUT, TAG, Lease, machine_time
from choreo.broker.ownership import Ownership
from choreo.broker.packing import unpack
from choreo.broker.publishing import PublishingChannel
from choreo.broker.qos import QoS
from choreo.broker.taken import Taken, to_begin, untouched
from choreo.broker.wire import PackedOnce, Part, Wire

#: The most messages taken at once, however large the prefetch is.
BATCH = 100

#: While there is something to do, no fewer are taken than this.
WORTH = 8

#: With an event loop, deliveries pause after this long, so that signals, remote control and timers get their turn.
SLICE_SECONDS = 0.01

#: The part of `consumer_timeout` for which a handler may begin on the claim that its message was taken with.
CERTAIN = 0.8

#: A worker that shuts down returns what has not started after this long: by then no pool starts anything new.
UNSTARTED_SECONDS = 1.0


class ConsumingChannel(PublishingChannel):
    """A channel that owns what it takes, and gives back what it does not finish."""

    QoS = QoS
    consumer_timeout = owning.CONSUMER_TIMEOUT
    at_a_time = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pid = os.getpid()
        self._settled = False
        self._ownership: Ownership | None = None
        #: Taken, but not delivered yet.
        self._arrived: deque[Taken] = deque()
        #: The take that is under way: its acks, its queues, the tags it may give, and the time.
        self._taking: tuple[list[str], list[str], list[str], float] | None = None
        #: How many commands with commits were sent before it.
        self._sent_before = 0
        #: Whether it waits for a token first.
        self._waiting = False
        #: Whether the next poll takes at once instead of waiting for a token.
        self._expecting = True
        self._sequence = 0
        self._noack: set[str] = set()
        #: How it takes and waits: by queues, since they take turns in being the first.
        self._packed = PackedOnce()
        #: The keys that were named as being no queues.
        self._named: set[bytes] = set()
        #: Where the handlers of consumed queues remember what they have done: see lua/claim.lua.
        self._inboxes: dict[str, str] = {}
        #: Who begins several deliveries of a queue together, and says how many.
        self._aheads: dict[str, Callable[[Any, Sequence[Taken]], int]] = {}
        #: Who may handle a delivery of a queue without further ado, and says whether he has.
        self._shortcuts: dict[str, Callable[[Any, Taken], bool]] = {}
        self._delivering: int | None = None
        self._commits: Commits | None = None
        super().__init__(*args, **kwargs)

    # -- connections -----------------------------------------------------------------------------------------------

    @property
    def line(self) -> Commits | None:
        """
        Where commits can be sent ahead: with an event loop, which fetches the answers in its next turn.

        For a worker that runs its handlers in its own process, as the pools solo and threads do.
        """
        return self.commits() if self.connection.cycle.hub is not None else None

    def commits(self) -> Commits:
        """The commits that this channel's consumer sends ahead."""
        if self._commits is None:
            self._commits = Commits(Wire(lambda: self.pool), self._own, lambda: self._arrived or workload.waiting())
        return self._commits

    def _settle_commits(self) -> None:
        if self._commits is not None:
            self._commits.settle()

    def _disconnect_pools(self) -> None:
        # It is kept: handlers may still run whose copies it has decided about. See `ack_later`.
        if self._commits is not None:
            self._commits.close()
        super()._disconnect_pools()

    def _pool_of_its_own(self) -> Any:
        """A pool for the ownership, which may outlive this channel."""
        managers = {name: getattr(self, name) for name in ("_sentinel_manager", "_async_sentinel_manager")}
        try:
            return self._get_pool()
        finally:
            self.__dict__.update(managers)

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
        self._packed.forget()
        arguments = kwargs.get("arguments") or {}
        self._inboxes[queue] = arguments.get(INBOX, "")
        for hooks, name in ((self._aheads, AHEAD), (self._shortcuts, SHORTCUT)):
            hooks.pop(queue, None)
            if name in arguments:
                hooks[queue] = arguments[name]
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        self.connection._callbacks[queue] = partial(self._hand_over, callback, no_ack)
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
        message = self.Message(self._payload(Taken(queue, answer[2].decode(), answer[3])), channel=self)
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
            own = Ownership(Wire(lambda: pool), self.keys, float(self.consumer_timeout), int(self.at_a_time))
            server = self.connection.client.as_uri().rpartition("@")[2]
            with _serving():
                own.start(lambda wire: settings.check(wire, server))
            self._ownership = own
            self._watch_bindings()
        return self._ownership

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Take messages: at once if some may be there or acks wait to be sent, else when a token comes, or its time."""
        # First things first.
        self._ask(0 if self._arrived else self._room(), timeout)

    def _ask(self, limit: int, timeout: float | None = None) -> None:
        if self._taking is not None:
            # Kombu gave up a connection that was silent for too long, and the answer to the take with it.
            self._forget_taking()
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        connection = self.client.connection
        at_once = self._expecting or self._arrived or (self._ownership is not None and self._ownership.has_acks)
        packed, acks, tags = self._pack_take(queues, limit, None)
        self._taking = acks, queues, tags, machine_time()
        self._sent_before = self._commits.sent if self._commits is not None else 0
        if not at_once:
            # Both in one go: Redis carries out the second as soon as the first ends, and we need not wake up between.
            packed = self._pack_wait(queues, timeout or self.brpop_timeout or 0) + packed
        self._waiting = not at_once
        self._in_poll = connection
        self._brpop_sent_at = monotonic()
        try:
            connection.send_packed_command((packed,))
        except BaseException:
            self._forget_taking()
            raise

    def _room(self) -> int:
        """How many more messages may be taken, beside those that have arrived."""
        free: int | None = self.qos.can_consume_max_estimate()
        if "can_consume" in self.qos.__dict__:
            return 1  # worker_disable_prefetch decides one by one
        if free is None:
            free = BATCH if self.connection.cycle.hub is not None else 1
        return min(free, BATCH) - len(self._arrived)

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
        turn = -(-limit // len(queues)) if self.queue_order_strategy == "round_robin" else limit
        before = self._next_sequence(limit)
        command = self.wire.evalsha(scripts.TAKE, (), ())[:2]

        def same() -> tuple[list[Part], list[Part]]:
            names = [keys.consumers, inflight, *[keys.token(queue) for queue in queues]]
            names += [prefix + self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
            flags = "".join("1" if flag else "0" for flag in quick)
            inboxes = [self._inboxes.get(queue, "") if no_ack is None else "" for queue in queues]
            return [*command, len(names), *names, owner], [len(queues), flags, *inboxes]

        packed = self._packed.command((*queues, no_ack, owner, *command), same, [limit, turn, before], acks)
        tags = [f"{owner}:{before + i}" for i in range(1, limit + 1)] if owner else []
        return packed, acks, tags

    def _pack_wait(self, queues: list[str], seconds: float) -> bytes:
        def same() -> tuple[list[Part], list[Part]]:
            return ["BRPOP", *[self.keys.token(queue) for queue in queues], str(seconds)], []

        return self._packed.command((*queues, seconds), same)

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
            # They have come by now. A worker that has nothing to do gets here once a second.
            if self._commits is not None:
                self._commits.settle(wait=False, sent_before=self._sent_before)
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
            number, tag, text, claim = answer[i : i + 4]
            self._arrived.append(Taken(queues[number - 1], tag.decode(), text, claim.decode(), certain_until))
        for queue in dict.fromkeys(taken.queue for taken in self._arrived):
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
            taken = self._arrived.popleft()
            queue, tag = taken.queue, taken.tag
            if tag and not self._still_own(tag):
                continue
            if queue not in self.connection._callbacks:
                if tag:
                    self._own().give_back([tag], counted=False, untouched=[tag])
                continue
            if queue in self._aheads:
                self._begin_ahead(taken)
            shortcut = self._shortcuts.get(queue)
            self._delivering = threading.get_ident()
            try:
                if shortcut is None or not shortcut(self, taken):
                    self.connection._callbacks[queue](taken)
            finally:
                self._delivering = None
            return True
        return False

    def _begin_ahead(self, first: Taken) -> None:
        """Show what was taken together to who can begin several at once."""
        together = to_begin(first, self._arrived)
        if not together:
            return
        count = self._aheads[first.queue](self, together)
        for taken in together[:count]:
            taken.begun = True
        for taken in together[count : count + 1]:
            taken.alone = True

    def _hand_over(self, callback: Callable[[Any], Any], no_ack: bool, received: Any) -> Any:
        """What kombu's channel does with a delivery."""
        message = self.message_of(received) if isinstance(received, Taken) else self.Message(received, channel=self)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return callback(message)

    def message_of(self, taken: Taken) -> Any:
        """The message that was taken. What is known of the event in it goes with it."""
        message = self.Message(self._payload(taken), channel=self)
        message.choreo_event = None if message.errors else taken.known_event
        return message

    def lease_of(self, taken: Taken) -> Lease:
        """The lease of a message that was taken, and never before."""
        owner = taken.tag.rpartition(":")[0]
        return Lease(owner, self.keys.inflight(owner), taken.tag, taken.claim, taken.certain_until)

    def _deliver_slice(self) -> None:
        """
        With an event loop: deliver for a little while, then let the loop have its turn.

        What is left makes the next turn ask Redis for an answer that comes at once, and is delivered on that answer.
        A timer would not do: the loop waits for sockets before it carries out the acks that a timer's call left.
        """
        until = monotonic() + SLICE_SECONDS
        half = len(self._arrived) // 2
        while not self.closed and self.deliver_one() and monotonic() < until:
            if len(self._arrived) == half and self._expecting and not self._in_poll:
                self._ask_early()
        if self._commits is not None:
            self._commits.flush(wait=False)

    def _ask_early(self) -> None:
        """Take more while there is something to do, so that nothing stands still until Redis answers."""
        room = 0 if "can_consume" in self.qos.__dict__ else self._room()
        if room >= WORTH:
            self._ask(room)

    def _still_own(self, tag: str) -> bool:
        """False if this process slept so long that its messages went back."""
        own = self._own()
        if not own.is_fresh():
            with _serving():
                own.beat()
        return tag.startswith(own.owner)

    def _payload(self, taken: Taken) -> dict[str, Any]:
        payload, tag = unpack(taken.text), taken.tag
        properties = payload["properties"]
        properties["delivery_tag"] = tag or self._next_delivery_tag()
        if tag:
            owner = tag.rpartition(":")[0]
            about = {OWNER: owner, INFLIGHT: self.keys.inflight(owner), TAG: tag, CERTAIN_UNTIL: taken.certain_until}
            properties["delivery_info"].update(about | {CLAIM: taken.claim} if taken.claim else about)
        return payload

    # -- acks ------------------------------------------------------------------------------------------------------

    def ack_later(self, tag: str, *, urgent: bool = True) -> None:
        """
        Note an ack. It travels with the next take.

        With an event loop, what does not travel is sent in the loop's next turn.
        Without one it is sent at once, unless it comes from within a delivery, when it is sent after that.
        """
        own, commits = self._ownership, self._commits
        if own is None or (commits is not None and commits.decides(tag)):
            return
        own.ack(tag, urgent=urgent)
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

    @property
    def is_asking(self) -> bool:
        """Whether Redis has been asked for messages, and has not answered yet."""
        return bool(self._in_poll) and self._in_poll._sock is not None

    @property
    def has_enough(self) -> bool:
        """
        Whether a worker's pool has so much left to do that more can be fetched later, and in one go.

        A pool that answers often would otherwise fetch one message for each that it has finished.
        """
        room = self.qos.can_consume_max_estimate()
        return room is not None and workload.waiting() > 2 * room

    def before_poll(self) -> None:
        """Send acks that no take will carry soon: one that waits is under way, or nothing more can be consumed."""
        own = self._ownership
        if own is None or not own.has_acks or self._settled or (self._taking is not None and not self._waiting):
            return
        no_more = self._in_poll or not self.qos.can_consume() or not self.active_queues
        if no_more or (own.has_urgent_acks and self.has_enough):
            self.flush_acks()

    def flush_acks(self) -> None:
        """Send the noted acks now."""
        if self._ownership is not None and self._ownership.has_acks:
            with _serving():
                self._ownership.flush(self.wire)

    # -- stopping --------------------------------------------------------------------------------------------------

    def _return_arrived(self, queue: str | None = None) -> None:
        """Return what was taken and not delivered, of one queue or of all."""
        back = [taken for taken in self._arrived if queue in (None, taken.queue)]
        self._arrived = deque(taken for taken in self._arrived if queue not in (None, taken.queue))
        tags = [taken.tag for taken in back if taken.tag]
        if tags and self._ownership is not None:
            self._ownership.give_back(tags, counted=False, untouched=untouched(back))

    def _return_unstarted_soon(self) -> None:
        """In a Celery worker that shuts down: return what no pool has started, while the rest is finished."""
        if self._ownership is None or self.active_queues or not workload.is_stopping():
            return
        timer = threading.Timer(UNSTARTED_SECONDS, self._return_unstarted)
        timer.daemon = True
        timer.start()

    def _return_unstarted(self) -> None:
        own = self._ownership
        if own is None or self._settled:
            return
        started = workload.begun()
        tags = [str(tag) for tag in tuple(self.qos._delivered) if tag not in started and tag not in self.qos._dirty]
        self.give_back(tags, counted=False)

    def settle(self) -> None:
        """The end of this channel's consuming: send the last acks, return the rest. Once; and never in a fork."""
        own = self._ownership
        if self._settled or own is None or self._pid != os.getpid():
            return
        self._settled = True
        self._settle_commits()
        unbegun = untouched(self._arrived)
        self._arrived.clear()
        unacked = self.qos.unacked()
        self.qos._delivered.clear()
        if workload.goes_on_with(unacked):
            # The worker lost its connection: its handlers go on, and ack later.
            own.retire(unacked)
            return
        try:
            own.leave(unbegun)
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
        self._commits = None


@contextmanager
def _serving() -> Iterator[None]:
    """A server that refuses (read-only, out of memory, failing disk) is no server to consume from: reconnect."""
    try:
        yield
    except ResponseError as exc:
        raise exceptions.ConnectionError(f"Redis refuses: {exc}") from exc
