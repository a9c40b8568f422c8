"""A handler's queue and its store on one Redis, and a worker that claims what it takes."""

from datetime import timedelta
from typing import Any

import pytest

from choreo import Terms
from choreo.broker.redis.keys import INBOX
from choreo.broker.redis.receipt import Receipt
from choreo.broker.redis.transport import Channel
from choreo.events.message import Message
from choreo.fast.fused_store import FusedStore
from choreo.store import Claim, ClaimResult, Verdict
from tests.contract.redis_broker import Corner
from tests.unit.events import OrderPlaced, envelope, identity_of
from tests.waiting import DEADLINE

HANDLER = "payment.charge"
RUN = ClaimResult(Verdict.RUN, deliveries=1)


class Worker:
    """A consumer of the handler's queue, and what `Delivery` does with a copy, step by step."""

    def __init__(self, place: "Place", prefetch: int = 64, inbox: str | None = None, **options: Any) -> None:
        self.place = place
        self.connection = place.corner.connect(**options)
        self.channel: Channel = self.connection.channel()
        self.channel.basic_qos(0, prefetch, False)
        self.messages: list[Any] = []
        arguments = {INBOX: place.store.inbox(HANDLER) if inbox is None else inbox}
        self.channel.basic_consume(HANDLER, False, self.messages.append, "tag", arguments=arguments)

    def take(self, count: int = 1) -> list[Any]:
        while len(self.messages) < count:
            self.connection.drain_events(timeout=DEADLINE)
        return self.messages

    def takes_nothing(self, seconds: float = 0.3) -> bool:
        with pytest.raises(TimeoutError):
            self.connection.drain_events(timeout=seconds)
        return not self.messages

    def receipt(self, number: int = 0) -> Receipt:
        receipt = Receipt.of(self.messages[number].properties)
        assert receipt is not None
        return receipt

    def claim(self, unit: str, number: int = 0, attempt: int = 1) -> Claim:
        return Claim(HANDLER, identity_of(unit), self.receipt(number).tag, attempt)

    def holds(self, unit: str, number: int = 0, attempt: int = 1) -> bool:
        return self.receipt(number).holds(identity_of(unit), attempt)

    def die(self) -> None:
        """Stop like a killed process: nothing is acked, returned or said any more."""
        own = self.channel.own()
        own._heart.end()
        self.place.corner.redis.zadd(f"{self.place.corner.prefix}_choreo.consumers", {own.owner: 1})

    def go(self) -> None:
        """Stop cleanly."""
        self.channel.close()


class Place:
    """A corner of a server with the queue and the store of one handler."""

    def __init__(self, url: str, namespace: str) -> None:
        self.corner = Corner(url, f"{namespace}:")
        self.namespace = namespace
        terms = Terms(lease=timedelta(seconds=30), retention=timedelta(hours=1), max_deliveries=3)
        self.store = FusedStore(url, terms, f"{namespace}:choreo", "choreo.events", self.corner.prefix)

    def send(self, unit: str, retries: int = 0, **about: Any) -> None:
        message = Message.carrying(
            envelope(OrderPlaced(customer_id="alice", total_cents=1), id=unit, **about),
            exchange="",
            routing_key=HANDLER,
            retries=retries,
        )
        self.corner.producer.publish(
            message.body,
            exchange="",
            routing_key=HANDLER,
            headers=message.headers,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
        )

    def unit(self, unit: str) -> dict[str, str]:
        raw = self.corner.redis.hgetall(f"{self.namespace}:choreo:{{{HANDLER}}}:unit:{identity_of(unit)}")
        return {field.decode(): value.decode() for field, value in raw.items()}

    def repeated(self) -> int:
        return int(self.corner.redis.hget(f"{self.namespace}:choreo:{{{HANDLER}}}:counts", "repeated") or 0)

    def ask(self, unit: str, token: str = "somebody", attempt: int = 1) -> ClaimResult:
        return self.store.begin(Claim(HANDLER, identity_of(unit), token, attempt))
