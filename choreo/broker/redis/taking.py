"""
How the Redis transport takes messages: up to the free prefetch at once, with the acks of earlier ones riding along.

What is taken is in flight from the moment at which it leaves its queue: see lua/take.lua. This half of a consuming
channel asks, and keeps what has arrived; `consuming.py` delivers it.

*When it asks.* A channel that has nothing waits for a token, and takes in the same breath. While more is waiting it
asks when half of what it took is delivered, so that nothing stands still until Redis answers. And while messages come
one by one in quick succession, to a worker that handles them itself, it rests for `REST` before it asks again: to be
woken for each would cost more than to handle it.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty
from time import monotonic
from typing import Any

from redis import exceptions
from redis.exceptions import NoScriptError, ResponseError

from choreo import forks
from choreo.broker import workload
from choreo.broker.redis import ownership as owning
from choreo.broker.redis import scripts, server_settings
from choreo.broker.redis.hooks import NO_HOOKS, ConsumerHooks
from choreo.broker.redis.ownership import Ownership
from choreo.broker.redis.publishing import PublishingChannel
from choreo.broker.redis.receipt import machine_time
from choreo.broker.redis.taken import Taken
from choreo.redis_client.wire import PackedOnce, Part, Wire

#: The most messages taken at once, however large the prefetch is.
BATCH = 100

#: While there is something to do, no fewer are taken than this.
WORTH = 8

#: While messages come faster than this many seconds apart, but one by one, they are asked for after a rest as long.
RUSH = REST = 0.003

#: The part of `consumer_timeout` for which a handler may begin on the claim that its message was taken with.
CERTAIN = 0.8


class Pace:
    """How fast messages come: a running mean of the seconds between two of them."""

    #: What is longer is a break: whatever there was before it is over.
    LONGEST = 0.01

    def __init__(self) -> None:
        self._gap = self.LONGEST
        self._last = 0.0

    def note(self, count: int) -> None:
        """So many have come now."""
        if count:
            now = monotonic()
            gap = (now - self._last) / count
            self._gap = self._gap + (gap - self._gap) / 8 if gap < self.LONGEST else self.LONGEST
            self._last = now

    @property
    def is_rush(self) -> bool:
        return self._gap < RUSH


@dataclass(slots=True)
class Take:
    """A question for messages that is under way."""

    queues: list[str]
    #: What it acks.
    acks: list[str]
    owner: str
    #: The numbers that it may give to messages.
    numbers: range
    asked_at: float

    @property
    def tags(self) -> list[str]:
        """The tags that it may give."""
        return [f"{self.owner}:{number}" for number in self.numbers] if self.owner else []


class TakingChannel(PublishingChannel):
    """A channel that owns what it takes."""

    consumer_timeout = owning.CONSUMER_TIMEOUT
    at_a_time = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: What takes part in consuming: see `choreo.broker.redis.hooks`.
        self.hooks: ConsumerHooks = NO_HOOKS
        #: True in a forked child until it consumes by itself.
        self._is_inherited = False
        self._ownership: Ownership | None = None
        #: Taken, but not delivered yet.
        self._arrived: deque[Taken] = deque()
        self._taking: Take | None = None
        #: The hooks' answer when it was sent.
        self._asked = 0
        #: Whether it waits for a token first.
        self._waiting = False
        #: Whether the next poll takes at once instead of waiting for a token.
        self._expecting = True
        self._sequence = 0
        self._pace = Pace()
        self._resting_until = 0.0
        self._noack: set[str] = set()
        #: How it takes and waits: by queues, since they take turns in being the first.
        self._packed = PackedOnce()
        #: The keys that were named as being no queues.
        self._named: set[bytes] = set()
        #: Where the handlers of consumed queues remember what they have done: see lua/claim.lua.
        self._inboxes: dict[str, str] = {}
        super().__init__(*args, **kwargs)
        forks.guard(self)

    # -- connections -----------------------------------------------------------------------------------------------

    @property
    def has_event_loop(self) -> bool:
        """True in a worker with an event loop, which calls the channel when Redis has answered."""
        return self.connection.cycle.hub is not None

    def _disconnect_pools(self) -> None:
        self.hooks.close()
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

    def own(self) -> Ownership:
        """This channel's ownership, registered when the first message is about to be taken."""
        if self._ownership is None:
            self._is_inherited = False
            pool = self._pool_of_its_own()
            # A heartbeat that waits for longer than a beat is worth less than the next one.
            patience = float(self.consumer_timeout) / 3
            pool.connection_kwargs["socket_timeout"] = min(self.socket_timeout or patience, patience)
            own = Ownership(Wire(lambda: pool), self.keys, float(self.consumer_timeout), int(self.at_a_time))
            server = self.connection.client.as_uri().rpartition("@")[2]
            with serving():
                own.start(lambda wire: server_settings.check(wire, server))
            self._ownership = own
            self._watch_bindings()
        return self._ownership

    # -- asking --------------------------------------------------------------------------------------------------------

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
        packed, self._taking = self._pack_take(queues, limit, None)
        self._asked = self.hooks.asking()
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
            free = BATCH if self.has_event_loop else 1
        return min(free, BATCH) - len(self._arrived)

    @property
    def is_resting(self) -> bool:
        """Whether it lets messages come together before it asks for them."""
        return monotonic() < self._resting_until

    def _ask_early(self) -> None:
        """Take more while there is something to do, so that nothing stands still until Redis answers."""
        if self._expecting and not self._in_poll and (room := self._room()) >= WORTH:
            self._ask(room)

    def rest_in_a_rush(self) -> None:
        """Ask no sooner than after a rest, if messages come one by one in quick succession."""
        if self._pace.is_rush and not (self._arrived or self._expecting or self._in_poll):
            self._resting_until = monotonic() + REST
            self.connection.cycle.hub.call_later(REST, _wake_up)

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

    def _next_sequence(self, count: int) -> int:
        """Numbers are used up when they are asked for: an answer may get lost, a number must not be used twice."""
        before = self._sequence
        self._sequence += count
        return before

    def _pack_take(self, queues: list[str], limit: int, no_ack: bool | None) -> tuple[bytes, Take]:
        quick = [queue in self._noack if no_ack is None else no_ack for queue in queues]
        prefix, keys = self.global_keyprefix, self.keys
        owner, acks, inflight = "", [], keys.inflight("-")
        if not all(quick):
            own = self.own()
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
        return packed, Take(queues, acks, owner, range(before + 1, before + limit + 1), machine_time())

    def _pack_wait(self, queues: list[str], seconds: float) -> bytes:
        def same() -> tuple[list[Part], list[Part]]:
            return ["BRPOP", *[self.keys.token(queue) for queue in queues], str(seconds)], []

        return self._packed.command((*queues, seconds), same)

    def _send_take(self, packed: bytes) -> list[Any]:
        try:
            answer: list[Any] = self.wire.send_packed(packed)
        except NoScriptError:
            self.wire.load(scripts.TAKE)
            answer = self.wire.send_packed(packed)
        return answer

    # -- answers -------------------------------------------------------------------------------------------------------

    def _brpop_read(self, **_: Any) -> bool:
        asked = self._asked
        try:
            answer, take = self._read_take()
            return self._on_taken(answer, take)
        finally:
            # A worker that has nothing to do gets here once a second.
            self.hooks.answered(asked)

    def _read_take(self) -> tuple[list[Any], Take]:
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
        take, self._taking = self._taking, None
        if take is None:
            raise Empty()
        return answer, take

    def _read_answer(self, connection: Any) -> Any:
        try:
            with serving():
                try:
                    return connection.read_response()
                except NoScriptError:
                    self.wire.load(scripts.TAKE)
                    raise Empty() from None
        except self.connection_errors:
            # The next turn of the loop connects again.
            connection.disconnect()
            raise

    def _on_taken(self, answer: list[Any], take: Take) -> bool:
        if answer[0] == -1:
            self._expecting = True
            with serving():
                self.own().beat()
            raise Empty()
        answer = self._without_troubles(answer)
        self._expecting = answer[0] == 1
        # Some of the time is kept in hand for what lies between looking at the clock and calling the handler.
        certain_until = take.asked_at + float(self.consumer_timeout) * CERTAIN
        self._pace.note(len(answer) // 4)
        for i in range(1, len(answer), 4):
            number, tag, text, claim = answer[i : i + 4]
            self._arrived.append(Taken(take.queues[number - 1], tag.decode(), text, claim.decode(), certain_until))
        for queue in dict.fromkeys(taken.queue for taken in self._arrived):
            self._queue_cycle.rotate(queue)
        if not self._arrived:
            raise Empty()
        return self._deliver_taken()

    def _deliver_taken(self) -> bool:
        """Called when something has arrived. Whether anything was delivered."""
        raise NotImplementedError

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
        take, self._taking = self._taking, None
        self._expecting, self._waiting = True, False
        if take is not None:
            self._take_failed(take)

    def _take_failed(self, take: Take) -> None:
        if self._ownership is not None:
            self._ownership.put_back_acks(take.acks)
            self._ownership.return_lost(take.tags)

    def _drop_poll(self) -> None:
        """End what is under way on the polled connection. Kombu waits for the answer; all we could lose is a token."""
        connection = getattr(self.__dict__.get("client"), "connection", None)
        if self._in_poll and connection is not None:
            connection.disconnect()
        self._in_poll = None
        if self._taking is not None:
            self._forget_taking()

    @property
    def has_arrived(self) -> bool:
        """Whether messages were taken that are not delivered yet."""
        return bool(self._arrived)

    @property
    def arrived(self) -> Sequence[Taken]:
        """The messages that were taken and are not delivered yet, oldest first."""
        return self._arrived

    def after_fork(self) -> None:
        # What the parent took, and its claim on it, stay the parent's.
        self._arrived = deque()
        self._taking = self._ownership = None
        self._expecting, self._waiting = True, False
        self._is_inherited, self.hooks = True, NO_HOOKS
        # It was closed by a guard of its own; the next one is made from this process's pool.
        self.__dict__.pop("wire", None)


def _wake_up() -> None:
    """Nothing but a turn of the event loop."""


class serving:  # noqa: N801 - it is used as a function
    """A server that refuses (read-only, out of memory, failing disk) is no server to consume from: reconnect."""

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if isinstance(error, ResponseError):
            raise exceptions.ConnectionError(f"Redis refuses: {error}") from error
