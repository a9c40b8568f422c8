"""
The publishing half of the Redis transport: one script finds the bound queues, and puts a copy into each.

Exchanges and bindings are kept in kombu's own format, so that stock kombu reads them. There are two differences: the
script in Redis looks bindings up, and not this process; and unbinding removes them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.transport.virtual.exchange import DirectExchange, TopicExchange

from choreo.broker.redis import ownership as owning
from choreo.broker.redis import scripts
from choreo.broker.redis.keys import Keys
from choreo.broker.redis.packing import dumps, encode_body, head_of_copies
from choreo.cached import cached_property
from choreo.redis_client.wire import Wire


class Topic(TopicExchange):
    """A topic exchange whose queues are found by a script in Redis."""

    def deliver(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> int:
        """Broadcast the message. Unlike kombu's, it returns the number of queues that got a copy."""
        reached: int = self.channel.broadcast(message, exchange, routing_key, **kwargs)
        return reached


class Direct(DirectExchange):
    """A direct exchange whose queues are found by a script in Redis."""

    def deliver(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> int:
        """Broadcast the message. Unlike kombu's, it returns the number of queues that got a copy."""
        reached: int = self.channel.broadcast(message, exchange, routing_key, **kwargs)
        return reached


class PublishingChannel(kombu_redis.Channel):
    """A channel whose broadcasts reach all bound queues or none."""

    body_encoding = "utf-8"
    exchange_types = {**virtual.Channel.exchange_types, "topic": Topic, "direct": Direct}

    # -- connections -----------------------------------------------------------------------------------------------

    @cached_property
    def keys(self) -> Keys:
        """The names of the transport's keys, with the `global_keyprefix`."""
        return Keys(self.global_keyprefix)

    @cached_property
    def wire(self) -> Wire:
        """The connection for all calls that do not block. Kombu's `client` is for the blocking ones."""
        return Wire(lambda: self.pool)

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """The channel's one client. Kombu would build a client for each command."""
        yield client or self._shared_client

    @cached_property
    def _shared_client(self) -> Any:
        return self._create_client()

    def _disconnect_pools(self) -> None:
        # The wire and the shared client use these pools.
        wire = self.__dict__.pop("wire", None)
        if wire is not None:
            wire.close()
        self.__dict__.pop("_shared_client", None)
        super()._disconnect_pools()

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
        """The exchange's type: as declared in this process, else as Redis knows it. Kombu would take it for direct."""
        if exchange in self.state.exchanges:
            return super().typeof(exchange, default)
        known: dict[str, str] = self.connection.exchange_types_known
        if exchange not in known:
            kind = self.wire.command("HGET", self.keys.exchanges, exchange)
            if kind is None:
                # Nothing is bound to it yet. If another process binds a queue right now, the script still routes
                # correctly: each entry tells whether it is a topic or a direct binding.
                return self.exchange_types["topic"]
            known[exchange] = kind.decode()
        return self.exchange_types[known[exchange]]

    def broadcast(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> int:
        """Put a copy into each bound queue, in one step: all or none. Returns the number of queues."""
        priority = self._q_for_pri("", self._get_message_priority(message, reverse=False))
        prefix = self.global_keyprefix
        keys = [prefix + self.keyprefix_queue % exchange, self.keys.routes(exchange)]
        tag = message["properties"]["delivery_tag"]
        args = [routing_key, self.sep, prefix, priority, self.keys.wake_up(""), head_of_copies(message), tag]
        batch = kwargs.get("_publish_batch")
        if batch is not None:
            # A pipeline cannot load a missing script, so it sends the source.
            batch.add("eval", scripts.BROADCAST.source, len(keys), *keys, *args)
            return 0
        reached: int = self.wire.call(scripts.BROADCAST, keys, args)
        if not reached and self.deadletter_queue:
            self._put(self.deadletter_queue, message)
        return reached

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> int:
        """Put a message into one queue."""
        priority = self._get_message_priority(message, reverse=False)
        prefix, expires = self.global_keyprefix, self._expires.get(queue, 0)
        keys = [prefix + self._q_for_pri(queue, priority), self.keys.wake_up(queue)]
        if expires:
            keys += [prefix + self._q_for_pri(queue, step) for step in self.priority_steps]
        args = [dumps(message), expires]
        batch = kwargs.get("_publish_batch")
        if batch is not None:
            batch.add("eval", scripts.PUT.source, len(keys), *keys, *args)
            return 0
        self.wire.call(scripts.PUT, keys, args)
        return 1

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any) -> None:
        if kwargs.get("_publish_batch") is not None:
            super()._put_fanout(exchange, message, routing_key, **kwargs)
            return
        text = dumps(message)
        topics = self._get_publish_topics(exchange, routing_key)
        self.listeners = sum(self.wire.command("PUBLISH", self.global_keyprefix + topic, text) for topic in topics)

    #: How many subscribers got the last fanout message; None before the first.
    listeners: int | None = None

    def _has_queue(self, queue: str, **_: Any) -> bool:
        # Kombu's own method leaves out the prefix.
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

    def missing(self, exchange: str, bindings: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """The bindings that do not exist, of those given; each is (queue, routing key)."""
        kind, table = self.typeof(exchange), self.global_keyprefix + self.keyprefix_queue % exchange
        members = [self._member(*kind.prepare_bind(queue, exchange, key, {})) for queue, key in bindings]
        answers = self.wire.commands([("SISMEMBER", table, member) for member in members])
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [binding for binding, is_there in zip(bindings, answers, strict=True) if not is_there]

    def queue_unbind(
        self, queue: str, exchange: str = "", routing_key: str = "", arguments: Any = None, **_: Any
    ) -> None:
        """Remove a binding in Redis. Kombu's own method removes it only from a copy of the table."""
        self.state.binding_delete(queue, exchange, routing_key)
        # This process need not have declared the exchange, and its type may be unknown: both forms of the member go.
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
        """Delete a queue, its messages and all its bindings, also those that other processes made."""
        if if_empty and self._size(queue):
            return
        self.forget_queue(queue)
        super().queue_delete(queue, if_unused=if_unused, **kwargs)
        self.auto_delete_queues.discard(queue)
        self._purge(queue)

    def forget_queue(self, queue: str) -> None:
        """Remove all bindings of a queue, also those that other processes made. Its messages stay."""
        prefix = self.global_keyprefix
        self.wire.call(
            scripts.FORGET,
            [self.keys.bound, self.keys.exchanges, self.keys.wake_up(queue)],
            [
                queue,
                self.sep,
                prefix + self.keyprefix_queue % "",
                prefix + self.keyprefix_binding_permanent % "",
                self.keys.routes(""),
                uuid4().hex,
            ],
        )

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange and all its bindings, also those that other processes made."""
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
        """Hook: called after this channel's bindings have changed."""
