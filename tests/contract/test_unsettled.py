"""Whatever lies in a queue on Redis is settled, and whatever the store refuses comes back some times only."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from choreo import Reason, Service, Terms
from choreo.broker.incoming import DELIVERY_COUNT, UNCOUNTED
from choreo.broker.redis.packing import head_of_event, tail_of_copy
from choreo.delivery.notice import park
from choreo.errors import EnvelopeError
from choreo.events.message import Message
from choreo.store import Store
from choreo.store.redis import RedisStore
from tests.contract.redis_broker import Corner
from tests.contract.test_shortcut import HANDLER, JOIN, ORDER, Start, start, way  # noqa: F401 - fixtures
from tests.unit.events import OrderConfirmed, OrderPlaced, PaymentCharged, envelope, identity_of

#: Half a surrogate pair: as UTF-8 would write it; escaped in the message; escaped in the body within the message.
HALVES = [b"\xed\xa0\x80", b"\\ud800", b"\\\\ud800", b"\\\\\\\\ud800"]
#: Places in a message: what to replace there.
PLACES = [
    b'"lang": "py"',
    b'"delivery_tag": "tag"',
    b'"content-type": "application/json"',
    b'"content-encoding": "utf-8"',
    b'"body_encoding": "utf-8"',
    b'"routing_key": "q"',
    b"Zo",
]


def texts() -> Iterator[bytes]:
    """Messages as choreo writes them, with bytes in one place that cannot be written as UTF-8."""
    number = 0
    for half in [*HALVES, b"\xff", b"\x00"]:
        for field in ("id", "source", "type", "subject", "correlation_id", "causation_id"):
            number += 1
            event = replace(envelope(ORDER, id=f"e-{number}"), **{field: f"MARK{number}"})
            yield text_of(event).replace(b"MARK", half)
        for place in PLACES:
            number += 1
            name, _, _ = place.rpartition(b'"py"')
            made = (name or place.rpartition(b": ")[0] + b": ") + b'"' + half + b'"' if b":" in place else half
            text = text_of(envelope(ORDER, id=f"e-{number}"))
            assert place in text
            yield text.replace(place, made, 1)
    yield from (b"", b"null", b"[]", b"{}", b"\xff\x00", b"\xed\xa0\x80")


def text_of(event: Any) -> bytes:
    message = Message.carrying(event, exchange="", routing_key="q")
    return (head_of_event(message) + tail_of_copy("q", "tag")).encode()


@pytest.mark.parametrize("name", [HANDLER, JOIN])
def test_bytes_that_are_no_utf_8_are_settled_wherever_they_are(start: Start, way: str, name: str) -> None:  # noqa: F811
    worker = start(way)
    queue = worker.queues[(HANDLER, JOIN).index(name)].name
    made = list(texts())
    worker.corner.redis.lpush(queue, *made)
    worker.tell(envelope(ORDER, id="good"))

    worker.run()

    assert worker.undone() == []
    letters = list(worker.app.dead_letters)
    assert len(letters) > len(made) / 4
    assert all(letter.reason is Reason.UNREADABLE for letter in letters)


@pytest.mark.parametrize("requeue", [True, UNCOUNTED])
def test_a_return_that_is_no_failed_attempt_is_not_counted(corner: Corner, requeue: bool | str) -> None:
    reader = corner.reader("q")
    corner.put("q", {"n": 1})
    (message,) = reader.drain()

    message.reject(requeue=requeue)

    (again,) = reader.drain(2)[1:]
    assert again.delivery_info["redelivered"] is True
    assert again.headers.get(DELIVERY_COUNT) == (1 if requeue is True else None)
    reader.close()


@pytest.mark.parametrize("count", [-(10**9), True, "x"])
def test_a_count_that_a_stranger_wrote_does_not_keep_a_message_from_being_counted(corner: Corner, count: Any) -> None:
    reader = corner.reader("q")
    corner.put("q", {"n": 1}, headers={DELIVERY_COUNT: count})
    (message,) = reader.drain()

    message.requeue()

    (again,) = reader.drain(2)[1:]
    assert again.headers[DELIVERY_COUNT] == 1
    reader.close()


def test_the_returns_of_each_delivery_are_counted_by_themselves(store: Store) -> None:
    assert [store.returned("payment.charge", "a") for _ in range(3)] == [1, 2, 3]
    assert store.returned("payment.charge", "b\ud800") == 1
    assert store.returned("loyalty.award", "a") == 1
    assert [store.returned("payment.charge", "a", by) for by in (-1, 1, -1)] == [2, 3, 2]


def test_a_letter_whose_keys_in_the_store_are_of_another_type_is_kept_shown_and_discarded(
    redis_url: str, namespace: str
) -> None:
    app = make_app(redis_url, namespace, lane=False)
    app.runtime.introduce()
    store = app.runtime.store
    assert isinstance(store, RedisStore)
    client = redis.Redis.from_url(redis_url)
    for owner in (HANDLER, "payment", "payment.dead_letters"):
        client.set(store._cabinet(owner)[0], "not choreo's")

    park(app.runtime, HANDLER, Message("", HANDLER, b"\xff"), EnvelopeError("odd"))

    (letter,) = app.dead_letters.find("payment")
    assert (letter.message.body, letter.reason) == (b"\xff", Reason.UNREADABLE)
    app.dead_letters.discard(letter.id)
    assert list(app.dead_letters) == []
    for key in client.keys(f"{namespace}*"):
        client.delete(key)
    client.close()


def make_app(url: str, namespace: str, *, lane: bool) -> Service:
    settings = {"choreo_namespace": namespace, "choreo_fast_lane": lane}
    app = Service("payment", broker=url, config=settings, set_as_current=False, terms=Terms(max_deliveries=3))

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    @app.join(OrderConfirmed, PaymentCharged)
    def ship(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...

    app.finalize()
    app.runtime.introduce()
    return app


@pytest.fixture(params=[True, False], ids=["lane on", "lane off"])
def app(request: pytest.FixtureRequest, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr("choreo.worker.outage.STORE_PAUSE", 0)
    return make_app(redis_url, namespace, lane=request.param)


def spoil(app: Service, owner: str, *names: str) -> None:
    """Let keys of an owner be of another type than the store needs."""
    with redis.Redis.from_url(app.runtime.store.url) as client:
        for name in names:
            client.set(f"{app.runtime.store.prefix}:{{{owner}}}:{name}", "of another type")


def states(app: Service, name: str, event: Any, count: int = 3) -> list[str]:
    return [app.tasks[name].apply(args=[json.dumps(event.to_wire())]).state for _ in range(count)]


@pytest.mark.parametrize("keys", [[f"unit:{identity_of('e-1')}"], [f"unit:{identity_of('e-1')}", "letters"]])
def test_an_event_that_the_store_refuses_is_a_dead_letter(app: Service, keys: list[str]) -> None:
    spoil(app, "payment.charge", *keys)

    assert states(app, "payment.charge", envelope(ORDER, id="e-1")) == ["REJECTED", "REJECTED", "FAILURE"]

    keeper = "payment" if "letters" in keys else "payment.charge"
    (letter,) = [letter for letter in app.dead_letters.find("payment") if letter.handler == keeper]
    assert letter.reason is Reason.POISON
    assert "WRONGTYPE" in letter.error
    assert json.loads(letter.message.body)[0][0]["id"] == "e-1"
    assert letter.message.routing_key == app.runtime.queue_of("payment.charge")


def test_a_part_that_the_store_refuses_is_a_dead_letter(app: Service) -> None:
    spoil(app, "payment.ship", "parts:join:ORD-1")

    assert states(app, "payment.ship", envelope(OrderConfirmed(), subject="ORD-1"))[-1] == "FAILURE"

    (letter,) = app.dead_letters.find("payment.ship")
    assert (letter.reason, letter.unit) == (Reason.POISON, "join:ORD-1")


def test_a_notice_that_the_store_refuses_does_not_come_back_for_ever(app: Service) -> None:
    spoil(app, "payment.charge", f"unit:{identity_of('e-1')}")
    states(app, "payment.charge", envelope(ORDER, id="e-1"))
    (letter,) = app.dead_letters.find("payment.charge")
    spoil(app, "payment.dead_letters", f"unit:notice:{letter.id}")

    task = app.tasks["payment.dead_letters"]

    assert [task.apply(args=[letter.id]).state for _ in range(3)] == ["REJECTED", "REJECTED", "FAILURE"]
    assert app.dead_letters.get(letter.id) == letter
