"""
A kombu transport that makes Redis a broker that loses no message.

It extends kombu's own Redis transport, and replaces its publishing and consuming. The life of a message::

    publish ──broadcast.lua──> queue ──take.lua──> in flight ──ack──> gone
                                 ^                    │
                                 └───give_back.lua────┘   requeued, or its consumer stopped or died

*Publish.* One script finds the queues that are bound for the routing key, and puts a copy into each: into all queues
or none. `*` and `#` have the same meaning as in AMQP. The publishing process need not have declared the exchange. Each
copy has a delivery tag of its own and is addressed to its one queue (exchange `''`, routing key = queue). So a copy
that is requeued or sent again stays in that queue.

*Queue.* A queue is a plain list under its own name, with kombu's suffix for each priority. Messages are taken from its
right end. Beside each queue there is a list with at most one element, the wake-up mark, on which an idle consumer
blocks. The consumer sends "wait for the mark" and "take" in one go. A lost mark costs a second, not a message.

*Take.* One script moves messages, up to the free prefetch, from the queues into the consumer's own hash
`_choreo.inflight.<owner>` (tag -> queue, wake-up mark, message). The same script acks earlier messages. At no moment
is a message in the memory of a process only.

*Claim.* If a queue is consumed with the argument `keys.INBOX`, the same script reads the inbox of the queue's handler.
It drops copies whose unit is finished, and claims the units of the others. See `choreo.fast.fused_store`.

*Ack.* An ack removes the record in flight, if it still belongs to this owner. `Receipt.of(message.properties)` names
the key and the field of the record. With it another script can ask "is this delivery still mine?" and ack as part of a
larger step, also from the child process of a pool.

*Return.* A requeued message goes to the front of its own queue. A consumer that stops returns its unacked messages at
once, in their original order. In a Celery worker that shuts down, messages that have not started return after
`UNSTARTED_SECONDS`, while the started ones are finished. If a consumer dies, any other consumer returns its messages
after `consumer_timeout` seconds of silence. See `ownership.py`.

*Redelivery.* A message that was delivered before has `properties.delivery_info["redelivered"] = True`. The header
`x-delivery-count` counts failed deliveries: the message was requeued, or its consumer died. A clean stop does not
count.

Transport options, beside those of kombu's Redis transport:

- `consumer_timeout` (15): seconds of silence after which a consumer counts as dead.
- `at_a_time` (1): how many of its messages the consumer handles at the same time, at most: the size of a pool.
- `socket_timeout` (10), `socket_connect_timeout` (5), `socket_keepalive` (True): kombu's defaults wait for ever.

Limits:

- The header `x-delivery-count` grows for all messages that a dead consumer had prefetched, since the one that killed it
  cannot be told from the others. `Terms.max_deliveries` does not use that header: see lua/give_back.lua, `begun`.
- `visibility_timeout` and the `unacked_*` options have no effect: no message becomes visible by the passing of time.
- Fanout exchanges (remote control, worker events) use kombu's PUBLISH and SUBSCRIBE. A consumer that is not connected
  misses their messages.
"""

from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from choreo.broker.redis.consuming import ConsumingChannel
from choreo.broker.redis.poller import Poller

__all__ = ["Channel", "SentinelChannel", "SentinelTransport", "Transport"]


class Channel(ConsumingChannel):
    """A channel with the transport's options and their defaults."""

    socket_timeout = 10.0
    socket_connect_timeout = 5.0
    socket_keepalive = True

    from_transport_options = (*kombu_redis.Channel.from_transport_options, "consumer_timeout", "at_a_time")


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """A channel to the master that Sentinel names."""

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, "consumer_timeout", "at_a_time")


class Transport(kombu_redis.Transport):
    """
    The transport for `redis://` and `rediss://`.

    Use it as `Connection(url, transport="choreo.broker.redis.transport:Transport")`. With `redis+socket:///path` kombu
    ignores that argument and takes its own transport. Import this module and use `choreo+socket:///path` instead.
    """

    Channel = Channel

    # Kombu takes KeyError for a broken connection, because of its own bookkeeping of sockets. With it a KeyError in a
    # handler or a callback would make the worker reconnect for ever.
    connection_errors = tuple(error for error in kombu_redis.Transport.connection_errors if error is not KeyError)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        #: Exchange → type, of exchanges that were looked up in Redis and not declared in this process.
        self.exchange_types_known: dict[str, str] = {}

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Tell the poller about the event loop, then do as kombu does."""
        self.cycle.hub, self.cycle.reader = loop, self.on_readable
        super().register_with_event_loop(connection, loop)


class SentinelTransport(Transport):
    """The transport for `sentinel://`. It needs the transport option `master_name`."""

    default_port = kombu_redis.SentinelTransport.default_port
    Channel = SentinelChannel


TRANSPORT_ALIASES["choreo"] = "choreo.broker.redis.transport:Transport"
