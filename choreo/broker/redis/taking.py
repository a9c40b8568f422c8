"""
The taking half of a consuming channel: it takes messages up to the free prefetch, and acks earlier ones on the way.

A message is in flight from the moment at which it leaves its queue: see lua/take.lua. This half asks Redis, and keeps
the messages that have arrived. `consuming.py` delivers them.

*When a channel asks.* A channel without messages sends "wait for a wake-up mark" and "take" in one go. While more
messages wait in Redis, it asks again when half of the last batch is delivered, so that it need not stand still until
Redis answers. If messages come one by one in quick succession, and the worker handles them in its main process, it
rests for `REST` seconds before it asks again: waking up for each message would cost more than handling it.
"""

from collections import deque
from collections.abc import Mapping, Sequence
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
from choreo.redis_client.evictions import watch
from choreo.redis_client.refusals import explained
from choreo.redis_client.wire import Argument, PackedOnce, Wire

#: The most messages of one take, however large the prefetch is.
BATCH_MESSAGES = 100

#: The fewest messages for which a channel asks while it still has some to deliver.
WORTH = 8

#: Seconds. If messages come one by one, and less than `RUSH` apart, the channel rests for `REST` before it asks.
RUSH = REST = 0.003

#: The longest and the shortest wait for a wake-up mark, in seconds, while a queue is full.
LONGEST_WAIT, BLINK = 1.0, 0.01

#: No queue has a limit of its own.
NO_LIMITS: Mapping[str, int] = {}

#: The part of `consumer_timeout` in which a handler may begin on the claim of its take, without asking the store.
CERTAIN = 0.8


class Pace:
    """How fast messages come: a running mean of the seconds between two messages."""

    #: A longer gap, in seconds, is a break: the mean begins anew after it.
    LONGEST = 0.01

    def __init__(self) -> None:
        self._gap = self.LONGEST
        self._last = 0.0

    def note(self, count: int) -> None:
        """Note that ``count`` messages have come now."""
        if count:
            now = monotonic()
            gap = (now - self._last) / count
            self._gap = self._gap + (gap - self._gap) / 8 if gap < self.LONGEST else self.LONGEST
            self._last = now

    @property
    def is_rush(self) -> bool:
        """True if messages come less than `RUSH` seconds apart."""
        return self._gap < RUSH


@dataclass(slots=True)
class Take:
    """A take that was sent, and whose answer has not come yet."""

    queues: list[str]
    #: The tags that it acks.
    acks: list[str]
    owner: str
    #: The sequence numbers that it may give to messages.
    numbers: range
    #: The `machine_time` at which it was sent.
    asked_at: float

    @property
    def tags(self) -> list[str]:
        """The tags that it may give to messages."""
        return [f"{self.owner}:{number}" for number in self.numbers] if self.owner else []


class TakingChannel(PublishingChannel):
    """A channel that takes messages, and owns them while they are in flight."""

    consumer_timeout = owning.CONSUMER_TIMEOUT
    at_a_time = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: The program's part in consuming: see `choreo.broker.redis.hooks`.
        self.hooks: ConsumerHooks = NO_HOOKS
        #: True in a forked child, until it takes messages by itself.
        self._is_inherited = False
        self._ownership: Ownership | None = None
        #: Messages that were taken and are not delivered yet.
        self._arrived: deque[Taken] = deque()
        self._taking: Take | None = None
        #: The number that `hooks.asking` returned for the take under way.
        self._asked = 0
        #: True while the take under way waits for a wake-up mark.
        self._waiting = False
        #: True if messages may be left in Redis: the next poll takes at once, and does not wait for a wake-up mark.
        self._expecting = True
        self._sequence = 0
        self._pace = Pace()
        self._resting_until = 0.0
        self._noack: set[str] = set()
        #: Packed commands, by the order of queues, which rotates.
        self._packed = PackedOnce()
        #: Keys that are no lists and were logged.
        self._logged_keys: set[bytes] = set()
        #: Queue → the inbox of its handler, "" if there is none: see `choreo.broker.redis.keys.INBOX`.
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
        """A pool of connections for the ownership, which may outlive this channel."""
        managers = {name: getattr(self, name) for name in ("_sentinel_manager", "_async_sentinel_manager")}
        try:
            return self._get_pool()
        finally:
            self.__dict__.update(managers)

    def _watch_bindings(self) -> None:
        """Give the ownership the bindings that it declares again if Redis loses them."""
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
        """This channel's ownership. It is made and registered before the first take."""
        forks.notice()
        if self._ownership is None:
            self._is_inherited = False
            pool = self._pool_of_its_own()
            # A beat that waits longer than the time between two beats is given up for the next one.
            patience = float(self.consumer_timeout) / 3
            pool.connection_kwargs["socket_timeout"] = min(self.socket_timeout or patience, patience)
            own = Ownership(Wire(lambda: pool), self.keys, float(self.consumer_timeout), int(self.at_a_time))
            server = self.connection.client.as_uri().rpartition("@")[2]
            with reconnect_on_refusal():
                own.start(
                    lambda wire: server_settings.check(wire, server),
                    lambda wire: watch(server, lambda: wire.command("INFO")),
                )
            self._ownership = own
            self._watch_bindings()
        return self._ownership

    # -- asking --------------------------------------------------------------------------------------------------------

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Take messages: at once if some may be there or acks are noted, else after a wake-up mark or ``timeout``."""
        # While messages wait for their delivery, ask for none: see `ConsumingChannel._deliver_slice`.
        self._ask(0 if self._arrived else self._room(), timeout)

    def _ask(self, limit: int, timeout: float | None = None) -> None:
        if self._taking is not None:
            # Kombu gave up a silent connection, so the answer to the last take is lost.
            self._forget_taking()
        queues = self._queue_cycle.consume(len(self.active_queues))
        room = self.qos.room() if limit else NO_LIMITS
        if room:
            queues = [queue for queue in queues if room.get(queue, 1)]
            longest = timeout or self.brpop_timeout or LONGEST_WAIT
            timeout = max(round(min(self.qos.until_room(), longest), 2), BLINK)
        if not queues:
            return
        connection = self.client.connection
        at_once = self._expecting or self._arrived or (self._ownership is not None and self._ownership.has_acks)
        packed, self._taking = self._pack_take(queues, limit, None, room)
        self._asked = self.hooks.before_take()
        if not at_once:
            # Redis runs the second command as soon as the first ends, without another round trip.
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
        """How many messages may be taken, beside those that have arrived and are not delivered."""
        free: int | None = self.qos.can_consume_max_estimate()
        if "can_consume" in self.qos.__dict__:
            return 1  # Celery's worker_disable_prefetch replaces `can_consume`, and decides one by one
        if free is None:
            free = BATCH_MESSAGES if self.has_event_loop else 1
        return min(free, BATCH_MESSAGES) - len(self._arrived)

    @property
    def is_resting(self) -> bool:
        """True while the channel rests, so that several messages come together before it asks."""
        return monotonic() < self._resting_until

    def _ask_early(self) -> None:
        """Ask for more while messages are left to deliver, so that deliveries need not pause until Redis answers."""
        if self._expecting and not self._in_poll and (room := self._room()) >= WORTH:
            self._ask(room)

    def rest_in_a_rush(self) -> None:
        """Begin a rest of `REST` seconds if messages come one by one in quick succession."""
        if self._pace.is_rush and not (self._arrived or self._expecting or self._in_poll):
            self._resting_until = monotonic() + REST
            self.connection.cycle.hub.call_later(REST, _wake_up)

    @property
    def is_asking(self) -> bool:
        """True if Redis was asked for messages and has not answered yet."""
        return bool(self._in_poll) and self._in_poll._sock is not None

    @property
    def has_enough(self) -> bool:
        """
        True if a worker's pool has so many deliveries left that the channel should ask later, for several at once.

        Otherwise it would ask for one message after each one that the pool finishes.
        """
        room = self.qos.can_consume_max_estimate()
        return room is not None and workload.unstarted_count() > 2 * room

    def _next_sequence(self, count: int) -> int:
        """Reserve ``count`` numbers. They are not used again even if the answer to the take gets lost."""
        before = self._sequence
        self._sequence += count
        return before

    def _pack_take(
        self, queues: list[str], limit: int, no_ack: bool | None, room: Mapping[str, int] = NO_LIMITS
    ) -> tuple[bytes, Take]:
        quick = [queue in self._noack if no_ack is None else no_ack for queue in queues]
        prefix, keys = self.global_keyprefix, self.keys
        owner, acks, inflight = "", [], keys.inflight("-")
        if not all(quick):
            own = self.own()
            acks, owner = own.take_acks(), own.owner
            inflight = keys.inflight(owner)
        turn: int | str = -(-limit // len(queues)) if self.queue_order_strategy == "round_robin" else limit
        if room:
            most = [f"{number}:{room[queue]}" for number, queue in enumerate(queues, 1) if queue in room]
            turn = " ".join([str(turn), *most])
        before = self._next_sequence(limit)
        command = self.wire.evalsha(scripts.TAKE, (), ())[:2]

        def same() -> tuple[list[Argument], list[Argument]]:
            names = [keys.consumers, inflight, *[keys.wake_up(queue) for queue in queues]]
            names += [prefix + self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
            flags = "".join("1" if flag else "0" for flag in quick)
            inboxes = [self._inboxes.get(queue, "") if no_ack is None else "" for queue in queues]
            return [*command, len(names), *names, owner], [len(queues), flags, *inboxes]

        packed = self._packed.command((*queues, no_ack, owner, *command), same, [limit, turn, before], acks)
        return packed, Take(queues, acks, owner, range(before + 1, before + limit + 1), machine_time())

    def _pack_wait(self, queues: list[str], seconds: float) -> bytes:
        def same() -> tuple[list[Argument], list[Argument]]:
            return ["BRPOP", *[self.keys.wake_up(queue) for queue in queues], str(seconds)], []

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
            # An idle worker gets here once a second.
            self.hooks.after_take(asked)

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
            with reconnect_on_refusal():
                try:
                    return connection.read_response()
                except NoScriptError:
                    self.wire.load(scripts.TAKE)
                    raise Empty() from None
        except self.connection_errors:
            # Kombu connects again when it asks the next time.
            connection.disconnect()
            raise

    def _on_taken(self, answer: list[Any], take: Take) -> bool:
        if answer[0] == -1:
            self._expecting = True
            with reconnect_on_refusal():
                self.own().beat()
            raise Empty()
        answer = self._without_troubles(answer)
        self._expecting = answer[0] == 1
        # The rest of the timeout is a margin for the time between a look at the clock and the call of the handler.
        certain_until = take.asked_at + float(self.consumer_timeout) * CERTAIN
        self._pace.note(len(answer) // 4)
        for i in range(1, len(answer), 4):
            number, tag, text, claim = answer[i : i + 4]
            # A claim that is no UTF-8 is of an id that is none. The message is then unreadable, and set aside.
            self._arrived.append(
                Taken(take.queues[number - 1], tag.decode(), text, claim.decode(errors="replace"), certain_until)
            )
        for queue in dict.fromkeys(taken.queue for taken in self._arrived):
            self._queue_cycle.rotate(queue)
        if not self._arrived:
            raise Empty()
        return self._deliver_taken()

    def _deliver_taken(self) -> bool:
        """Called when messages have arrived. True if a message was delivered."""
        raise NotImplementedError

    def _without_troubles(self, answer: list[Any]) -> list[Any]:
        """The answer to a take, without its entries for keys that are no lists. Each such key is logged once."""
        taken = answer[:1]
        for i in range(1, len(answer), 4):
            if answer[i] > 0:
                taken += answer[i : i + 4]
            elif answer[i + 2] not in self._logged_keys:
                self._logged_keys.add(answer[i + 2])
                owning.logger.error(owning.NO_LIST, answer[i + 2].decode())
        return taken

    def _forget_taking(self) -> None:
        """Give up the take under way: note its acks again, and return the messages that it may have moved."""
        take, self._taking = self._taking, None
        self._expecting, self._waiting = True, False
        if take is not None:
            self._take_failed(take)

    def _take_failed(self, take: Take) -> None:
        if self._ownership is not None:
            self._ownership.put_back_acks(take.acks)
            self._ownership.return_lost(take.tags)

    def _drop_poll(self) -> None:
        """Close the polled connection. Kombu would wait for its answer; at most a wake-up mark is lost."""
        connection = getattr(self.__dict__.get("client"), "connection", None)
        if self._in_poll and connection is not None:
            connection.disconnect()
        self._in_poll = None
        if self._taking is not None:
            self._forget_taking()

    @property
    def has_arrived(self) -> bool:
        """True if messages were taken that are not delivered yet."""
        return bool(self._arrived)

    @property
    def arrived(self) -> Sequence[Taken]:
        """The messages that were taken and are not delivered yet, oldest first."""
        return self._arrived

    def after_fork(self) -> None:
        """Forget messages, take and ownership in a forked child: they stay the parent's."""
        self._arrived = deque()
        self._taking = self._ownership = None
        self._expecting, self._waiting = True, False
        self._is_inherited, self.hooks = True, NO_HOOKS
        # The next wire is made from this process's pool.
        self.__dict__.pop("wire", None)


def _wake_up() -> None:
    """Do nothing: the call makes the event loop take a turn."""


class reconnect_on_refusal:  # noqa: N801 - it is used as a function
    """
    Context: a refusal by the server raises `ConnectionError`, so that the consumer reconnects.

    A server that is read-only or out of memory, or whose disk fails, cannot be consumed from.
    """

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if isinstance(error, ResponseError):
            raise exceptions.ConnectionError(f"Redis refuses: {explained(error)}") from error
