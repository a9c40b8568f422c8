"""
The private names of kombu, redis-py and Celery that the Redis transport uses.

Private names may change in any release. Each one is in a table here, and a test compares the tables with the installed
releases. A release that renames one, or changes its arguments, fails that test before it can lose a message.
"""

import inspect
from collections.abc import Iterator

from billiard.pool import ApplyResult
from celery.worker import state
from celery.worker.request import Request
from kombu.transport import redis, virtual
from redis.connection import AbstractConnection, ConnectionPool

#: (class, name, its arguments without self, its purpose for choreo). None as arguments: an attribute, not a method.
LEANS_ON: tuple[tuple[type, str, tuple[str, ...] | None, str], ...] = (
    (redis.Channel, "_brpop_start", ("timeout",), "called to ask for messages; replaced"),
    (redis.Channel, "_brpop_read", ("options",), "called when an answer can be read; replaced"),
    (redis.Channel, "_in_poll", None, "the connection that an answer is expected on"),
    (redis.Channel, "_brpop_sent_at", None, "the time of the question, for the check of half-open connections"),
    (redis.Channel, "_flush_brpop_reauth", (), "called between two questions"),
    (redis.Channel, "_put", ("queue", "message", "kwargs"), "puts a message into one queue; replaced"),
    (redis.Channel, "_put_fanout", ("exchange", "message", "routing_key", "kwargs"), "publishes a fanout; replaced"),
    (redis.Channel, "_get_publish_topics", ("exchange", "routing_key"), "the pub/sub topics of a fanout"),
    (redis.Channel, "_queue_bind", ("exchange", "routing_key", "pattern", "queue"), "writes a binding; extended"),
    (redis.Channel, "_q_for_pri", ("queue", "pri"), "the name of a queue's list for a priority"),
    (redis.Channel, "_has_queue", ("queue", "kwargs"), "True if a queue exists; replaced"),
    (redis.Channel, "_size", ("queue",), "the length of a queue"),
    (redis.Channel, "_purge", ("queue",), "empties a queue"),
    (redis.Channel, "_maybe_update_queues_expire", ("client", "queue"), "prolongs an expiring queue"),
    (redis.Channel, "_get_pool", ("asynchronous",), "a pool with the channel's settings"),
    (redis.Channel, "_create_client", ("asynchronous",), "a client with the channel's settings"),
    (redis.Channel, "_disconnect_pools", (), "called at the end and after a fork; extended"),
    (redis.Channel, "_after_fork", (), "closes the pools in a forked child"),
    (redis.Channel, "_basic_cancel", ("consumer_tag",), "called when a consumer is cancelled; extended"),
    (redis.Channel, "_unsubscribe_from", ("queue",), "called by _basic_cancel for fanout queues"),
    (redis.Channel, "_receive_one", ("c",), "reads one published message; extended"),
    (redis.Channel, "conn_or_acquire", ("client",), "gives kombu its client; replaced"),
    (redis.Channel, "keyprefix_queue", None, "the name of a binding table"),
    (redis.Channel, "keyprefix_binding_permanent", None, "the name of a table of permanent bindings"),
    (redis.Channel, "sep", None, "separates the parts of a binding, and a queue from its priority"),
    (redis.Channel, "global_keyprefix", None, "before each key"),
    (redis.Channel, "active_queues", None, "the queues consumed, without fanout queues"),
    (virtual.Channel, "_inplace_augment_message", ("message", "exchange", "routing_key"), "stamps a message; replaced"),
    (virtual.Channel, "_get_message_priority", ("message", "reverse"), "the priority of a message"),
    (virtual.Channel, "_next_delivery_tag", (), "a unique tag"),
    (virtual.Channel, "typeof", ("exchange", "default"), "the exchange type that delivers; extended"),
    (virtual.Channel, "_active_queues", None, "the queues consumed"),
    (virtual.Channel, "_tag_to_queue", None, "consumer tag -> queue"),
    (virtual.Transport, "_deliver", ("message", "queue"), "hands a message to its consumer's callback"),
    (virtual.Transport, "_callbacks", None, "queue -> callback"),
    (virtual.QoS, "_flush", (), "forgets the acked messages"),
    (virtual.QoS, "_delivered", None, "tag -> message, of the unacked messages"),
    (virtual.QoS, "_dirty", None, "tags acked since the last _flush"),
    (virtual.QoS, "_on_collect", None, "the finalizer that returns messages at the end of the process"),
    (redis.MultiChannelPoller, "_channels", None, "the channels of a connection"),
    (redis.MultiChannelPoller, "_register_BRPOP", ("channel",), "called to let a channel ask; extended"),
    (redis.MultiChannelPoller, "fds", None, "the sockets to watch, read before each wait; shortened"),
    (redis.MultiChannelPoller, "on_poll_start", (), "called before each wait; extended"),
    (redis.MultiChannelPoller, "get", ("callback", "timeout"), "waits without an event loop; extended"),
    (redis.MultiChannelPoller, "maybe_restore_messages", (), "replaced by nothing"),
    (redis.Transport, "register_with_event_loop", ("connection", "loop"), "called with Celery's event loop; extended"),
    (AbstractConnection, "_sock", None, "None while a connection is closed"),
    (AbstractConnection, "send_packed_command", ("command", "check_health"), "sends a packed command"),
    (AbstractConnection, "can_read", ("timeout",), "True if data, or the end of the stream, can be read"),
    (AbstractConnection, "check_health", (), "a PING when it is due"),
    (ConnectionPool, "get_connection", None, "a connection to keep"),
    (Request, "_apply_result", None, "a weak reference to the pool's job"),
    (ApplyResult, "_write_to", None, "the pool child that a job is written to; None before that"),
    (ApplyResult, "_cache", None, "the jobs of which the pool awaits an answer"),
    (ApplyResult, "_job", None, "a job's key there"),
)

#: Attributes of the module `celery.worker.state`, which tells a shutdown from a lost connection.
STATE = ("active_requests", "reserved_requests", "should_stop", "should_terminate")


def broken() -> Iterator[str]:
    """One sentence for each name that the installed releases no longer have, or have with other arguments."""
    for owner, name, arguments, purpose in LEANS_ON:
        where = f"{owner.__module__}.{owner.__name__}.{name}"
        if arguments is None:
            if not _has(owner, name):
                yield f"{where} is gone; choreo needs it: {purpose}"
            continue
        found = getattr(owner, name, None)
        if not callable(found):
            yield f"{where}() is gone; choreo needs it: {purpose}"
        elif (actual := tuple(inspect.signature(found).parameters)[1:]) != arguments:
            yield f"{where}() takes {actual} now, not {arguments}; choreo needs it: {purpose}"
    for name in STATE:
        if not hasattr(state, name):
            yield f"celery.worker.state.{name} is gone; choreo needs it to tell a shutdown from a lost connection"


def _has(owner: type, name: str) -> bool:
    """True if a class has an attribute, or assigns it to ``self``."""
    return hasattr(owner, name) or any(
        f"self.{name} = " in inspect.getsource(base) for base in owner.__mro__ if base is not object
    )
