"""
A consuming channel of RabbitMQ that takes deliveries as they come, and delivers them in slices.

py-amqp calls the consumer of each message while it reads. Here the messages of a queue that is served (`serve`) wait in
`arrived`, in their order, until the event loop delivers them: so the hooks see several of them before the first is
delivered, and their acks are written together. Without an event loop, and for all other queues, it is the channel of
py-amqp.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import amqp
from amqp import spec
from amqp.exceptions import RecoverableConnectionError

from choreo.broker.incoming import UNCOUNTED, EventText
from choreo.broker.rabbitmq.acks import Acks
from choreo.broker.rabbitmq.hooks import NO_HOOKS, ConsumerHooks
from choreo.broker.rabbitmq.reading import ReadingChannel, reading_frames
from choreo.broker.rabbitmq.taken import Taken
from choreo.events.cloud_events import JSON

#: Seconds after which deliveries pause for the event loop, so that signals, remote control and timers get their turn.
SLICE_SECONDS = 0.01


class ConsumingChannel(ReadingChannel):
    """A channel that delivers the messages of served queues in slices, by its hooks."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.hooks: ConsumerHooks = NO_HOOKS
        #: The messages of served queues that are not delivered yet, the oldest first.
        self.arrived: deque[Taken] = deque()
        #: Consumer tag → queue, for the consumers of served queues.
        self.taking: dict[bytes, str] = {}
        #: The queues whose messages are taken.
        self.served: set[str] = set()
        #: Queue → how many of its messages this channel has delivered.
        self.delivered: Counter[str] = Counter()
        #: Queue → how many of these had others behind them that had arrived.
        self.followed: Counter[str] = Counter()
        #: What a consumer that ends leaves to the next one; None: it goes back.
        self._kept: list[Taken] | None = None
        #: The thread that delivers a slice; None if there is none.
        self._delivering: int | None = None
        #: Callback: called with a queue and its consumer's tag when RabbitMQ has cancelled that consumer on its own.
        #: None: that is py-amqp's `ConsumerCancelled`, which ends the connection.
        self.on_cancelled: Callable[[str, str], object] | None = None
        #: Consumer tag → queue, for all consumers.
        self._consumed: dict[str, str] = {}
        #: The prefetch with which a consumer begins now, and consumer tag → the one with which it began; 0: no limit.
        self._prefetch, self._prefetches = 0, dict[str, int]()
        #: Gets the next message of `_on_basic_deliver` in place of its consumer.
        self._catch: Callable[[Any], object] | None = None
        super().__init__(*args, **options)
        self.acks = Acks(self.channel_id, self._write)

    @property
    def has_event_loop(self) -> bool:
        """True if an event loop reads the connection, so that messages can wait for its next turn."""
        return bool(self.connection is not None and self.connection.has_event_loop)

    def serve(self, queue: str) -> None:
        """Take the messages of this queue, if it is consumed from now on."""
        self.served.add(queue)

    # -- consuming -------------------------------------------------------------------------------------------------

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool, **options: Any) -> Any:
        """Set the prefetch, as py-amqp does."""
        answer = super().basic_qos(prefetch_size, prefetch_count, a_global, **options)
        self._prefetch = prefetch_count
        return answer

    def has_room(self, count: int) -> bool:
        """True if RabbitMQ may send so many messages to each consumer that has some which are not delivered yet."""
        return all((self._prefetches.get(taken.consumer) or count) >= count for taken in self.arrived)

    def basic_consume(
        self, queue: str = "", *args: Any, no_ack: bool = False, callback: Any = None, **options: Any
    ) -> Any:
        """Consume as py-amqp does. The messages of a served queue are taken, if there is an event loop."""
        tag = super().basic_consume(queue, *args, no_ack=no_ack, callback=callback, **options)
        self._consumed[str(tag)] = queue
        self._prefetches[str(tag)] = self._prefetch
        if queue in self.served and not no_ack and callback is not None and self.has_event_loop:
            self.taking[str(tag).encode()] = queue
            self.connection.takers[self.channel_id] = self
        return tag

    def basic_cancel(self, consumer_tag: str, *args: Any, **options: Any) -> Any:
        """Cancel as py-amqp does, and give back what has arrived for this consumer."""
        answer = super().basic_cancel(consumer_tag, *args, **options)
        self._consumed.pop(consumer_tag, None)
        self._stop_taking(consumer_tag)
        return answer

    def _on_basic_cancel(self, consumer_tag: str) -> None:
        queue = self._consumed.pop(consumer_tag, None)
        self._stop_taking(consumer_tag)
        if queue is None or self.on_cancelled is None:
            super()._on_basic_cancel(consumer_tag)
        else:
            self._remove_tag(consumer_tag)
            self.on_cancelled(queue, consumer_tag)

    def end_consumer(self, consumer_tag: str, *, keep: bool) -> list[Taken]:
        """
        Cancel a consumer. With ``keep``, return what has arrived for it and is not delivered: for `go_on_with`.

        Without, that goes back to the queue.
        """
        self._kept = [] if keep else None
        try:
            self.basic_cancel(consumer_tag)
            return self._kept or []
        finally:
            self._kept = None

    def go_on_with(self, arrived: Sequence[Taken], consumer_tag: str) -> None:
        """Deliver what has arrived for a consumer that was ended to this one, and before anything newer."""
        for taken in arrived:
            taken.consumer = consumer_tag
        self.arrived.extendleft(reversed(arrived))

    def _stop_taking(self, consumer_tag: str) -> None:
        self.taking.pop(consumer_tag.encode(), None)
        self._prefetches.pop(consumer_tag, None)
        back = [taken for taken in self.arrived if taken.consumer == consumer_tag]
        if not back:
            return
        kept = [taken for taken in self.arrived if taken.consumer != consumer_tag]
        self.arrived.clear()
        self.arrived.extend(kept)
        if self._kept is not None:
            self._kept += back
            return
        self.hooks.returned(back)
        if self.connection is not None:
            self.acks.give_back([taken.tag for taken in back], counted=False)

    def _on_basic_deliver(
        self, consumer_tag: str, delivery_tag: int, redelivered: bool, exchange: str, routing_key: str, msg: Any
    ) -> None:
        queue = self.taking.get(consumer_tag.encode()) if self.taking else None
        if queue is None and self._catch is None:
            if consumer_tag in self.no_ack_consumers:
                self.acks.settle(delivery_tag)
            super()._on_basic_deliver(consumer_tag, delivery_tag, redelivered, exchange, routing_key, msg)
            return
        msg.channel = self
        msg.delivery_info = {
            "consumer_tag": consumer_tag,
            "delivery_tag": delivery_tag,
            "redelivered": redelivered,
            "exchange": exchange,
            "routing_key": routing_key,
        }
        if self._catch is not None:
            self._catch(msg)
        else:
            assert queue is not None
            self.arrived.append(Taken(queue, delivery_tag, consumer_tag, message=msg, redelivered=redelivered))

    def basic_get(self, queue: str = "", no_ack: bool = False, **options: Any) -> Any:
        """Take one message from a queue, as py-amqp does; None if there is none."""
        message = super().basic_get(queue, no_ack, **options)
        if message is not None and no_ack:
            self.acks.settle(message.delivery_info["delivery_tag"])
        return message

    # -- delivering ------------------------------------------------------------------------------------------------

    def deliver_slice(self) -> bool:
        """Deliver for `SLICE_SECONDS`, then write the acks. True if messages are left."""
        if not self.arrived:
            return False
        until, self._delivering = monotonic() + SLICE_SECONDS, threading.get_ident()
        try:
            while self.deliver_one() and monotonic() < until:
                pass
            self.hooks.after_slice()
        finally:
            self._delivering = None
        self._flush()
        return bool(self.arrived)

    def deliver_one(self) -> bool:
        """Deliver the oldest message that has arrived. False if there is none, or the connection is lost."""
        if not self.arrived or self.connection is None:
            return False
        taken = self.arrived.popleft()
        self.delivered[taken.queue] += 1
        if self.arrived:
            self.followed[taken.queue] += 1
        self.hooks.before_delivery(taken, self.arrived)
        if not self.hooks.deliver(taken):
            self.callbacks[taken.consumer](self.message_of(taken))
        return True

    def message_of(self, taken: Taken) -> Any:
        """py-amqp's message, as its queue gets it. The queue, which checks it, finds the event in it if it was read."""
        if taken.message is None:
            event = taken.event
            taken.message = self._read(taken) if event is None else self._made(taken, event)
        return taken.message

    def _read(self, taken: Taken) -> Any:
        """The message as py-amqp reads it from its frames."""
        caught: list[Any] = []
        assert taken.frames is not None
        on_frame = reading_frames(_Frames(), self._caught_by(caught.append))
        for kind, payload in enumerate(taken.frames, 1):
            if payload:
                on_frame((kind, 0, payload))
        return caught[0]

    def _caught_by(self, catch: Callable[[Any], object]) -> Callable[..., None]:
        def on_method(_: int, method: tuple[int, int], args: bytes, content: Any) -> None:
            self._catch = catch
            try:
                self.dispatch_method(method, args, content)
            finally:
                self._catch = None

        return on_method

    def _made(self, taken: Taken, event: EventText) -> Any:
        """The message of an event that was read from the frames. Its queue replaces all but the address."""
        assert taken.frames is not None
        args = taken.frames[0]
        at = 14 + args[4]
        behind = at + 1 + args[at]
        root, parent = event.lineage
        message = amqp.Message(
            taken.frames[2],
            channel=self,
            content_type=JSON,
            content_encoding="utf-8",
            application_headers={"root_id": root, "parent_id": parent},
            delivery_mode=2,
        )
        message.delivery_info = {
            "consumer_tag": taken.consumer,
            "delivery_tag": taken.tag,
            "redelivered": False,
            "exchange": args[at + 1 : behind].decode(errors="replace"),
            "routing_key": args[behind + 1 :].decode(errors="replace"),
        }
        message.choreo_event = event
        return message

    # -- answers ---------------------------------------------------------------------------------------------------

    def ack_later(self, tag: int) -> None:
        """
        Note an ack: it is written at the end of the slice, or at once if this thread is delivering none.

        Does nothing if the hooks ack this delivery. Raises py-amqp's error if the connection is lost.
        """
        if self.connection is None:
            raise RecoverableConnectionError("connection already closed")
        if self.hooks.acks(tag):
            return
        self.acks.ack(tag)
        if self._delivering != threading.get_ident():
            self.acks.flush()

    def ack_taken(self, taken: Taken) -> None:
        """Note an ack of a message that the hooks have delivered."""
        self.ack_later(taken.tag)

    def note_delivered(self, message: Any) -> None:
        """Called with the kombu message of a taken one that the hooks have delivered. RabbitMQ knows it already."""

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False, **options: Any) -> Any:
        """Ack a delivery as py-amqp does; those of a channel that takes messages together with others."""
        if self.served and delivery_tag and not multiple:
            return self.ack_later(delivery_tag)
        answer = super().basic_ack(delivery_tag, multiple, **options)
        if not multiple:
            self.acks.settle(delivery_tag)
        return answer

    def basic_reject(self, delivery_tag: int, requeue: bool | str, **options: Any) -> Any:
        """
        Reject a delivery as py-amqp does.

        With `UNCOUNTED` as ``requeue`` it goes back with ``basic.nack``, which quorum queues do not count as a failed
        delivery since RabbitMQ 4.3.
        """
        if requeue == UNCOUNTED:
            answer = self.send_method(spec.Basic.Nack, "Lbb", (delivery_tag, False, True))
        else:
            answer = super().basic_reject(delivery_tag, bool(requeue), **options)
        self.acks.settle(delivery_tag)
        return answer

    def _flush(self) -> None:
        if self.connection is not None:
            self.acks.flush()

    def _write(self, frames: bytes) -> None:
        connection = self.connection
        if connection is None:
            raise RecoverableConnectionError("connection already closed")
        try:
            connection.transport.write(frames)
        except OSError:
            # Some of the bytes may be written. And these deliveries come again only over another connection.
            connection.transport.connected = False
            raise
        connection.bytes_sent += 1

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self, *args: Any, **options: Any) -> Any:
        """Settle what the hooks have begun, write the last acks, and close as py-amqp does."""
        if self.connection is not None and self.served:
            self.hooks.settle()
            self._flush()
        return super().close(*args, **options)

    def collect(self) -> None:
        """The channel is gone, with its connection or alone: its deliveries are RabbitMQ's again."""
        if self.connection is not None:
            self.connection.takers.pop(self.channel_id, None)
            self._drop()
        super().collect()

    def _do_revive(self) -> None:
        # RabbitMQ has closed the channel. py-amqp opens it again: the deliveries of the new one have the same numbers.
        self._drop()
        self.acks = Acks(self.channel_id, self._write)
        super()._do_revive()

    def _drop(self) -> None:
        self.acks.end()
        self.taking.clear()
        self._consumed.clear()
        self._prefetches.clear()
        back = list(self.arrived)
        self.arrived.clear()
        if back:
            self.hooks.returned(back)
        if self.served:
            self.hooks.close()


class _Frames:
    """Counts frames that were counted when they came: as much of a connection as py-amqp's `frame_handler` needs."""

    bytes_recv = 0
