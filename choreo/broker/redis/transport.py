"""
Redis as a broker that loses nothing: a kombu transport on top of kombu's own.

The life of a message::

    publish ──broadcast.lua──> queue ──take.lua──> in flight ──ack──> gone
                                 ^                    │
                                 └───give_back.lua────┘   requeued, or its consumer stopped or died

*Publish.* One script finds the queues bound for the routing key (AMQP's meaning of `*` and `#`, whether or not
this process ever declared the exchange) and puts a distinct copy into each: all queues or none. A copy has its own
delivery tag and is addressed to its one queue (exchange `''`, routing key = queue), so that whatever happens to it
later happens in that queue only.

*Queue.* A plain list under the queue's own name (with kombu's suffix per priority); the right end is next. Beside
each queue there is a token to wake up a waiting consumer, which sends "wait for a token" and "take" in one go.
Losing a token costs a second, not a message.

*In flight.* One script moves up to the free prefetch from the queues into the consumer's own hash
`_choreo.inflight.<owner>` (tag -> queue, token, message), and acks earlier ones on the way. At no moment is a
message in a process's memory only.

*Claim.* A queue may be consumed with the argument `keys.INBOX`, which says where its handler remembers what it has
done. Then taking also drops what was done before, and claims the rest. See `choreo.fast.fused_store`.

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
- `at_a_time` (1): with how many messages the consumer is busy at most, of all that it has taken: the size of a pool.
- `socket_timeout` (10), `socket_connect_timeout` (5), `socket_keepalive` (True): kombu's defaults wait for ever.

`visibility_timeout` and the `unacked_*` options have no meaning here: nothing becomes visible by the passing of time.
Fanout exchanges (remote control, worker events) stay kombu's PUBLISH and SUBSCRIBE: who is away misses them.
"""

from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from choreo.broker.redis.consuming import ConsumingChannel
from choreo.broker.redis.poller import Poller

__all__ = ["Channel", "SentinelChannel", "SentinelTransport", "Transport"]


class Channel(ConsumingChannel):
    """A channel with the transport's options."""

    socket_timeout = 10.0
    socket_connect_timeout = 5.0
    socket_keepalive = True

    from_transport_options = (*kombu_redis.Channel.from_transport_options, "consumer_timeout", "at_a_time")


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """The same for the master that Sentinel names."""

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, "consumer_timeout", "at_a_time")


class Transport(kombu_redis.Transport):
    """
    For `redis://` and `rediss://`: `Connection(url, transport="choreo.broker.redis.transport:Transport")`.

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
        self.cycle.hub, self.cycle.reader = loop, self.on_readable
        super().register_with_event_loop(connection, loop)


class SentinelTransport(Transport):
    """`sentinel://`, with the transport option `master_name`."""

    default_port = kombu_redis.SentinelTransport.default_port
    Channel = SentinelChannel


TRANSPORT_ALIASES["choreo"] = "choreo.broker.redis.transport:Transport"
