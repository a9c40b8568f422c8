"""
The delivering half of a consuming channel: it delivers taken messages, and returns those that it does not finish.

See `choreo.broker.redis.transport` for the life of a message, and `ownership.py` for owners.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty
from time import monotonic
from typing import Any

from redis.exceptions import RedisError

from choreo.broker import workload
from choreo.broker.broadcasts import dropping
from choreo.broker.incoming import shortened
from choreo.broker.redis import ownership as owning
from choreo.broker.redis.bounded import BoundedMessage
from choreo.broker.redis.keys import INBOX
from choreo.broker.redis.qos import QoS
from choreo.broker.redis.receipt import Receipt
from choreo.broker.redis.taken import Taken, payload_of, untouched
from choreo.broker.redis.taking import TakingChannel, reconnect_on_refusal
from choreo.redis_client.refusals import explained

logger = logging.getLogger(__name__)

#: Seconds after which deliveries pause for the event loop, so that signals, remote control and timers get their turn.
SLICE_SECONDS = 0.01

#: Seconds after which a worker that shuts down returns its unstarted messages: by then no pool starts a new one.
UNSTARTED_SECONDS = 1.0


class ConsumingChannel(TakingChannel):
    """A channel that delivers its taken messages, and returns those that it does not finish."""

    QoS = QoS
    Message = BoundedMessage

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._ended = False
        #: The thread that is in a delivery; None if there is none.
        self._delivering: int | None = None
        super().__init__(*args, **kwargs)

    # -- consuming -------------------------------------------------------------------------------------------------

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> Any:
        """Consume as kombu does. The consumer argument `keys.INBOX` names the inbox of the queue's handler."""
        if no_ack:
            self._noack.add(queue)
        else:
            self._noack.discard(queue)
        self._packed.forget()
        self._inboxes[queue] = (kwargs.get("arguments") or {}).get(INBOX, "")
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        on_delivery = partial(self._hand_over, callback, no_ack)
        errors = (*self.connection.connection_errors, *self.connection.channel_errors)
        self.connection._callbacks[queue] = dropping(on_delivery, queue, errors) if no_ack else on_delivery
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
        """Take one message from a queue; None if there is none."""
        packed, take = self._pack_take([queue], 1, no_ack)
        try:
            answer = self._send_take(packed)
        except BaseException:
            self._take_failed(take)
            raise
        if answer[0] == -1:
            self.own().beat()
            return self.basic_get(queue, no_ack, **kwargs)
        self._maybe_update_queues_expire(self._shared_client, queue)
        answer = self._without_troubles(answer)
        if len(answer) == 1:
            return None
        message = self.Message(self._payload(Taken(queue, answer[2].decode(), answer[3])), channel=self)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return message

    # -- delivering ------------------------------------------------------------------------------------------------

    def deliver_one(self) -> bool:
        """Deliver the oldest taken message that is not delivered yet. False if there is none."""
        while self._arrived:
            taken = self._arrived.popleft()
            queue, tag = taken.queue, taken.tag
            if tag and not self._still_own(tag):
                continue
            if queue not in self.connection._callbacks:
                if tag:
                    self.own().give_back([tag], counted=False, untouched=[tag])
                continue
            self.hooks.before_delivery(taken, self._arrived)
            self._delivering = threading.get_ident()
            try:
                if not self.hooks.deliver(taken):
                    self.connection._callbacks[queue](taken)
            finally:
                self._delivering = None
            return True
        return False

    def deliver_usually(self, taken: Taken) -> None:
        """Deliver a message that the hooks have taken over, and give up: as if they had left it to the channel."""
        callback = self.connection._callbacks.get(taken.queue) if self.connection is not None else None
        self.qos.forget(taken.tag)
        if self.closed or self._ended or callback is None:
            self.give_back([taken.tag], counted=False)
        else:
            callback(taken)

    def _hand_over(self, callback: Callable[[Any], Any], no_ack: bool, received: Any) -> Any:
        """Deliver a message as kombu's channel does."""
        message = self.message_of(received) if isinstance(received, Taken) else self.Message(received, channel=self)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return callback(message)

    def message_of(self, taken: Taken) -> Any:
        """The kombu message of a taken one, with the event in it if that was read already."""
        message = self.Message(self._payload(taken), channel=self)
        message.choreo_event = None if message.errors else taken.known_event
        message.choreo_queue = taken.queue
        return message

    def note_delivered(self, message: Any) -> None:
        """Note the kombu message of a taken one that the hooks have delivered, so that it can be acked or rejected."""
        self.qos.append(message, message.delivery_tag)

    def receipt_of(self, taken: Taken) -> Receipt:
        """The receipt of a taken message that was never delivered before."""
        return Receipt(taken.tag, taken.claim, taken.certain_until)

    def _deliver_taken(self) -> bool:
        if not self.has_event_loop:
            return self.deliver_one()
        self._deliver_slice()
        return True

    def _deliver_slice(self) -> None:
        """
        With an event loop: deliver for `SLICE_SECONDS`, then let the loop have its turn.

        If messages are left, the next turn sends a take of no messages, which Redis answers at once, and the answer
        leads here again. A timer would delay acks: the loop first waits for sockets, and sends the acks after that.
        """
        until = monotonic() + SLICE_SECONDS
        half = len(self._arrived) // 2
        while not self.closed and self.deliver_one() and monotonic() < until:
            if len(self._arrived) == half:
                self._ask_early()
        self.hooks.after_slice()

    def _still_own(self, tag: str) -> bool:
        """False if the owner has changed, since this process slept so long that its messages were returned."""
        own = self.own()
        if not own.is_fresh():
            with reconnect_on_refusal():
                own.beat()
        return tag.startswith(own.owner)

    def _payload(self, taken: Taken) -> dict[str, Any]:
        return payload_of(taken, taken.tag or self._next_delivery_tag())

    def _receive_one(self, client: Any) -> Any:
        """Deliver one published message, as kombu does: one that is no message in its format is dropped."""
        try:
            return super()._receive_one(client)
        except (Empty, MemoryError, *self.connection_errors):
            raise
        except Exception as error:  # a decoder may raise anything
            logger.error("a published message that cannot be read is dropped: %s", shortened(error))
            raise Empty from error

    # -- acks ------------------------------------------------------------------------------------------------------

    def ack_later(self, tag: str, *, urgent: bool = True) -> None:
        """
        Note an ack, for the next take to send.

        With an event loop, an ack that no take sends is sent in the loop's next turn.
        Without one it is sent at once; but after the delivery if it comes from within one.
        """
        own = self._ownership
        if own is None or self.hooks.acks(tag):
            return
        own.ack(tag, urgent=urgent)
        if self._ended or self.closed:
            return
        if not self.has_event_loop and self._delivering != threading.get_ident():
            self.flush_acks()

    def ack_taken(self, taken: Taken) -> None:
        """Note an ack of a message that the hooks have delivered. One that was not claimed is acked without delay."""
        self.ack_later(taken.tag, urgent=not taken.claim)

    def give_back(self, tags: list[str], *, counted: bool) -> None:
        """Return delivered messages to the front of their queues. If Redis is away, the ownership's thread does it."""
        own = self._ownership
        if own is None:
            return
        try:
            own.give_back(tags, counted=counted)
        except (RedisError, OSError) as exc:
            owning.logger.warning("cannot return %d message(s) now, it is tried again: %s", len(tags), explained(exc))
            own.return_soon([str(tag) for tag in tags], counted=counted)

    def before_poll(self) -> None:
        """Send acks that no take will send soon: a take waits for a wake-up mark, or no message may be consumed."""
        own = self._ownership
        if own is None or not own.has_acks or self._ended or (self._taking is not None and not self._waiting):
            return
        no_more = self._in_poll or not self.qos.can_consume() or not self.active_queues
        if no_more or (own.has_urgent_acks and self.has_enough):
            self.flush_acks()

    def flush_acks(self) -> None:
        """Send the noted acks now."""
        if self._ownership is not None and self._ownership.has_acks:
            with reconnect_on_refusal():
                self._ownership.flush(self.wire)

    # -- stopping --------------------------------------------------------------------------------------------------

    def _return_arrived(self, queue: str | None = None) -> None:
        """Return the taken messages that are not delivered, of one queue or of all."""
        back = [taken for taken in self._arrived if queue in (None, taken.queue)]
        self._arrived = deque(taken for taken in self._arrived if queue not in (None, taken.queue))
        tags = [taken.tag for taken in back if taken.tag]
        if tags and self._ownership is not None:
            self._ownership.give_back(tags, counted=False, untouched=untouched(back))

    def _return_unstarted_soon(self) -> None:
        """In a Celery worker that shuts down: return unstarted messages after `UNSTARTED_SECONDS`."""
        if self._ownership is None or self.active_queues or not workload.is_stopping():
            return
        timer = threading.Timer(UNSTARTED_SECONDS, self._return_unstarted)
        timer.daemon = True
        timer.start()

    def _return_unstarted(self) -> None:
        own = self._ownership
        if own is None or self._ended:
            return
        started = workload.started_tags()
        tags = [str(tag) for tag in tuple(self.qos._delivered) if tag not in started and tag not in self.qos._dirty]
        self.give_back(tags, counted=False)

    def settle(self) -> None:
        """
        End this channel's consuming: send the last acks, and return all other messages.

        Does nothing when called again, or in a forked child.
        """
        own = self._ownership
        if self._ended or own is None:
            return
        self._ended = True
        self.hooks.settle()
        unbegun = untouched(self._arrived)
        self._arrived.clear()
        unacked = self.qos.unacked()
        self.qos._delivered.clear()
        if workload.goes_on_with(unacked):
            # The worker has lost its connection, and is not shutting down: its handlers go on, and ack later.
            own.retire(unacked)
            return
        try:
            own.leave(unbegun)
        except (RedisError, OSError) as exc:
            owning.logger.warning(
                "consumer %s cannot return its messages now (%s); it keeps trying. If this process ends first, another "
                "consumer returns them %g s later",
                own.owner,
                explained(exc),
                own.timeout,
            )
            own.retire(())

    def close(self) -> None:
        """Return all unfinished messages, then close as kombu does. A forked child returns none."""
        if self._is_inherited:
            self._abandon()
        elif not self.closed:
            self._drop_poll()
            self.settle()
        super().close()

    def _abandon(self) -> None:
        """In a forked child: forget the parent's consumers, so that closing cancels, deletes and returns nothing."""
        self._ended, self._in_poll = True, None
        self._consumers.clear()
        self.auto_delete_queues.clear()


def is_choreos(connection: Any) -> bool:
    """True if a kombu connection uses choreo's transport for Redis."""
    channel = getattr(connection.transport, "Channel", None)
    return isinstance(channel, type) and issubclass(channel, ConsumingChannel)
