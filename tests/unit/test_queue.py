"""A delivery becomes a run of the queue's handler, or is set aside with its reason and every byte. It never raises."""

import json
from typing import Any
from unittest.mock import Mock

import amqp
import pytest
from kombu.compression import compress
from kombu.serialization import loads
from kombu.transport import pyamqp, virtual

from choreo.broker.queue import DeadLetterQueue, HandlerQueue, task_id
from choreo.errors import EnvelopeError, StoreError
from choreo.events.envelope import Envelope
from choreo.events.message import JSON, Message
from tests.unit.events import OrderPlaced, envelope, identity_of

HANDLER = "payment.charge"
QUEUE = "staging.payment.charge"
ORDER = envelope(OrderPlaced(customer_id="alice"), subject="ORD-1", id="e-1")
GOOD = Message.carrying(ORDER, exchange="choreo.events", routing_key="order.placed")
WIRE = ORDER.to_wire()


class Channel:
    """As much of a broker's channel as a queue asks for."""

    def __init__(self) -> None:
        self.on_delivery: Any = None
        self.answers: list[tuple[str, str]] = []

    def basic_consume(self, *_: Any, callback: Any, **__: Any) -> None:
        self.on_delivery = callback

    def basic_ack(self, delivery_tag: str) -> None:
        self.answers.append(("ack", delivery_tag))

    def basic_reject(self, delivery_tag: str, requeue: bool) -> None:
        self.answers.append(("requeue" if requeue else "drop", delivery_tag))

    def decode_body(self, body: Any, _: str | None = None) -> Any:
        return body


def virtual_message(channel: Channel, body: Any, headers: Any, content_type: Any, content_encoding: Any) -> Any:
    """A delivery as kombu's Redis transport hands it over."""
    properties = {"delivery_tag": "t-1", "delivery_info": {"exchange": "choreo.events", "routing_key": "order.placed"}}
    payload = {"body": body, "headers": headers, "properties": properties}
    return virtual.Message(
        payload | {"content-type": content_type, "content-encoding": content_encoding}, channel=channel
    )


def amqp_message(channel: Channel, body: Any, headers: Any, content_type: Any, content_encoding: Any) -> Any:
    """A delivery as RabbitMQ's client hands it over."""
    message = amqp.Message(body, channel=channel, content_type=content_type, content_encoding=content_encoding)
    if headers is not None:
        message.properties["application_headers"] = headers
    message.delivery_info = {"delivery_tag": "t-1", "exchange": "choreo.events", "routing_key": "order.placed"}
    return message


FLAVOURS = {"redis": virtual_message, "rabbitmq": amqp_message}


class Rig:
    """One queue with its consumer, and what became of what was delivered."""

    def __init__(self, flavour: str, kind: type[HandlerQueue] = HandlerQueue, handler: str = HANDLER) -> None:
        self.channel = Channel()
        self.make = FLAVOURS[flavour]
        self.parked: list[tuple[str, Message, Exception]] = []
        self.ran: list[Any] = []
        self.store_is_down = False
        more = {"prefix": "staging.", "handlers": lambda: {HANDLER}} if kind is DeadLetterQueue else {}
        kind(f"staging.{handler}", handler=handler, park=self.park, **more).bind(self.channel).consume(
            "tag", self.ran.append
        )

    def park(self, handler: str, message: Message, error: Exception) -> None:
        if self.store_is_down:
            raise StoreError("no store")
        self.parked.append((handler, message, error))

    def deliver(
        self, body: Any = GOOD.body, headers: Any = None, content_type: Any = JSON, content_encoding: Any = "utf-8"
    ) -> Any:
        message = self.make(self.channel, body, headers, content_type, content_encoding)
        self.channel.on_delivery(message)
        return message


def headers_of(message: Any) -> dict[str, Any]:
    return message.properties["application_headers"] if isinstance(message, amqp.Message) else message.headers


def arrived_at_celery(message: Any) -> Any:
    """What Celery gets to see of a delivery."""
    return pyamqp.Message(message, channel=Mock()) if isinstance(message, amqp.Message) else message


@pytest.fixture(params=FLAVOURS)
def rig(request) -> Rig:
    return Rig(request.param)


# -- a good delivery --------------------------------------------------------------------------------------------


def test_a_delivery_becomes_a_run_of_the_queues_handler(rig):
    rig.deliver(headers=dict(GOOD.headers))

    (message,) = rig.ran
    headers = headers_of(message)
    assert headers["task"] == HANDLER
    assert headers["id"] == task_id(identity_of("e-1"), HANDLER)
    assert headers["parent_id"] is None
    assert headers["root_id"] == headers["id"], "no task has announced it, so the run is the root"
    assert headers["argsrepr"] == "order.placed ORD-1"
    assert headers["retries"] == 0
    assert rig.parked == rig.channel.answers == []


def test_a_run_is_the_child_of_the_task_that_announced_its_event(rig):
    rig.deliver(headers=dict(GOOD.headers) | {"root_id": "t-0", "parent_id": "t-1"})

    headers = headers_of(rig.ran[0])
    assert (headers["root_id"], headers["parent_id"]) == ("t-0", "t-1")


def test_whatever_celery_sends_again_comes_back_to_this_queue_only(rig):
    rig.deliver(headers=dict(GOOD.headers))

    assert rig.ran[0].delivery_info["exchange"] == ""
    assert rig.ran[0].delivery_info["routing_key"] == QUEUE


def test_the_senders_headers_are_left_alone(rig):
    headers = dict(GOOD.headers)

    rig.deliver(headers=headers)

    assert headers == GOOD.headers


def test_each_handler_has_a_run_of_its_own():
    assert task_id(identity_of("e-1"), "payment.charge") != task_id(identity_of("e-1"), "loyalty.award")
    assert task_id(identity_of("e-1"), "payment.charge") != task_id(identity_of("e-2"), "payment.charge")


def test_the_attempts_so_far_are_kept(rig):
    rig.deliver(headers=GOOD.headers | {"retries": 3})

    assert headers_of(rig.ran[0])["retries"] == 3


def test_what_was_prepared_once_can_be_delivered_again(rig):
    rig.deliver(headers=dict(GOOD.headers))
    prepared = headers_of(rig.ran[0])

    rig.deliver(headers=dict(prepared))

    assert headers_of(rig.ran[1]) == prepared


def test_what_celery_could_stumble_over_is_not_taken_from_the_sender(rig):
    hostile = {"eta": "tomorrow", "expires": 5, "timelimit": "abc", "group": {}, "id": None, "stamps": 7, "shadow": []}

    rig.deliver(headers=GOOD.headers | hostile)

    headers = headers_of(rig.ran[0])
    assert (headers["eta"], headers["expires"], headers["timelimit"]) == (None, None, [None, None])
    assert "stamps" not in headers
    assert "shadow" not in headers


def test_a_compressed_event_is_read(rig):
    body, compression = compress(GOOD.body, "gzip")

    rig.deliver(body, GOOD.headers | {"compression": compression})

    assert rig.parked == []
    assert len(rig.ran) == 1


# -- one that cannot be read ------------------------------------------------------------------------------------


def body(*args: Any, kwargs: Any = {}, embed: Any = {}) -> bytes:  # noqa: B006 - never changed
    return json.dumps([list(args), kwargs, embed]).encode()


def without(name: str) -> bytes:
    return body({key: value for key, value in WIRE.items() if key != name})


def nested(depth: int) -> bytes:
    return GOOD.body.replace(b'"alice"', b"[" * depth + b"]" * depth)


def nested_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


#: What is delivered, by name: body, headers on top of good ones, content type.
MALFORMED: dict[str, dict[str, Any]] = {
    "a text, and no headers": {"body": b"hello", "headers": None, "content_type": "text/plain"},
    "no headers": {"headers": {}},
    "an unknown task": {"headers": {"task": "nobody.knows"}},
    "another handler's task": {"headers": {"task": "loyalty.award"}},
    "a task that is a list": {"headers": {"task": ["a"]}},
    "a task that is null": {"headers": {"task": None}},
    "an empty body": {"body": b""},
    "a body {}": {"body": b"{}"},
    "a body []": {"body": b"[]"},
    "a body null": {"body": b"null"},
    "a body 5": {"body": b"5"},
    "half a body": {"body": b'{"a":'},
    "arguments that are an object": {"body": b'[{"n":9},{},{}]'},
    "no arguments": {"body": body()},
    "two arguments": {"body": body(WIRE, WIRE)},
    "keyword arguments that are a text": {"body": body(WIRE, kwargs="abc")},
    "keyword arguments that the handler would not take": {"body": body(WIRE, kwargs={"limit": 5})},
    "no embed": {"body": json.dumps([[WIRE], {}]).encode()},
    "an embed that is a list": {"body": body(WIRE, embed=[1])},
    "a callback": {"body": body(WIRE, embed={"callbacks": [{"task": "x"}]})},
    "a chord that is a number": {"body": body(WIRE, embed={"chord": 5})},
    "a chain that is a text": {"body": body(WIRE, embed={"chain": "x"})},
    "bytes that are no text": {"body": b"\xff\xfe\xfa"},
    "a pickle": {"body": b"\x80\x04]\x94.", "content_type": "application/x-python-serialize"},
    "a content type that nobody knows": {"content_type": "application/x-nope"},
    "no content type": {"content_type": None},
    "a content type that is a number": {"content_type": 5},
    "attempts that are a text": {"headers": {"retries": "abc"}},
    "attempts below zero": {"headers": {"retries": -1}},
    "attempts that are true": {"headers": {"retries": True}},
    "attempts beyond counting": {"headers": {"retries": 10**30}},
    "a compression that nobody knows": {"headers": {"compression": "application/x-nope"}},
    "a compression that is a number": {"headers": {"compression": 5}},
    "gzip that is none": {"headers": {"compression": "application/x-gzip"}},
    "an event without an id": {"body": without("id")},
    "an event without a type": {"body": without("type")},
    "an event without a specversion": {"body": without("specversion")},
    "an event with a time that is none": {"body": body(WIRE | {"time": "tomorrow"})},
    "an event that is a number": {"body": body(5)},
    "an event that is a text and no JSON": {"body": body("hello")},
    "an event that is a text of 100,000 brackets": {"body": body("[" * 100_000)},
    "an event that is a text of 900 brackets": {
        "body": body(GOOD.body[2:-8].replace(b'"alice"', b"[" * 900 + b"]" * 900).decode())
    },
    "900 brackets behind escapes": {
        "body": body("BODY").replace(b"BODY", rb"\u007b\"data\":{\"x\":" + rb"\u005b" * 900 + rb"\u005d" * 900 + b"}}")
    },
    "a task nested 850 times": {"headers": {"task": nested_list(850)}},
    "an event whose data is a list": {"body": body(WIRE | {"data": [1]})},
    "a subject that is no Unicode": {"body": body(WIRE | {"subject": "\ud800"})},
    "data that is no Unicode": {"body": body(WIRE | {"data": {"name": "\ud800"}})},
    "100,000 brackets": {"body": nested(100_000)},
}


@pytest.mark.parametrize("case", MALFORMED.values(), ids=MALFORMED)
def test_what_cannot_be_read_is_parked_whole_and_acknowledged(rig, case):
    given = {"headers": {}, **case}
    given["headers"] = case["headers"] if not case.get("headers", True) else GOOD.headers | given["headers"]

    rig.deliver(**given)

    ((handler, message, error),) = rig.parked
    assert handler == HANDLER
    assert (message.exchange, message.routing_key) == ("", QUEUE)
    assert message.body == case.get("body", GOOD.body)
    assert Message.from_json(message.to_json().encode()).body == message.body
    # The reason is a line that a person can read.
    assert isinstance(error, EnvelopeError)
    assert 5 < len(str(error)) < 500
    assert "\n" not in str(error)
    assert rig.channel.answers == [("ack", "t-1")]
    assert rig.ran == []


#: What may be read or refused, but must not be handed on for Celery to stumble over.
ODD: dict[str, dict[str, Any]] = {
    "JSON in UTF-16": {"body": GOOD.body.decode().encode("utf-16")},
    "JSON after a byte order mark": {"body": b"\xef\xbb\xbf" + GOOD.body},
    "a content encoding that is a number": {"content_encoding": 5},
    "a value that Celery would make a date of, and cannot": {
        "body": body(WIRE | {"data": {"at": {"__type__": "datetime", "__value__": "tomorrow"}}})
    },
    "a value that Celery would make a date of": {
        "body": body(WIRE | {"data": {"at": {"__type__": "datetime", "__value__": "2026-01-01T00:00:00"}}})
    },
    "a value of a type that Celery does not know": {
        "body": body(WIRE | {"data": {"at": {"__type__": "nope", "__value__": 1}}})
    },
    "500 brackets": {"body": nested(500)},
    "a content encoding that nobody knows": {"content_encoding": "no-such-codec"},
    "a number that is none": {"body": GOOD.body.replace(b'"alice"', b"NaN")},
    "900 brackets": {"body": nested(900)},
}


@pytest.mark.parametrize("case", ODD.values(), ids=ODD)
def test_what_is_odd_is_parked_or_handed_on_so_that_celery_reads_the_same(rig, case):
    rig.deliver(**{"headers": GOOD.headers, **case})

    assert len(rig.parked) + len(rig.ran) == 1
    for message in rig.ran:
        arrived = arrived_at_celery(message)
        ((wire,), kwargs, _) = loads(arrived.body, arrived.content_type, arrived.content_encoding, accept=[JSON])
        assert kwargs == {}
        envelope = Envelope.from_wire(json.loads(wire) if isinstance(wire, str) else wire)
        assert json.dumps(envelope.data) == json.dumps(json.loads(case.get("body", GOOD.body))[0][0]["data"])
        # And it can be sent once more, as a retry.
        Message.carrying(envelope, exchange="", routing_key=QUEUE)


def test_a_good_event_after_a_bad_one_runs(rig):
    rig.deliver(b"garbage")
    rig.deliver(headers=dict(GOOD.headers))

    assert len(rig.parked) == len(rig.ran) == 1


def test_without_a_store_what_cannot_be_read_stays_in_its_queue(rig, monkeypatch):
    monkeypatch.setattr("choreo.broker.queue.STORE_PAUSE", 0)
    rig.store_is_down = True

    rig.deliver(b"garbage")

    assert rig.channel.answers == [("requeue", "t-1")]


def test_what_cannot_even_be_kept_stays_in_its_queue_and_the_worker_goes_on(rig, monkeypatch):
    monkeypatch.setattr("choreo.broker.queue.STORE_PAUSE", 0)
    rig.parked = Mock(append=Mock(side_effect=RecursionError))

    rig.deliver(b"garbage")

    assert rig.channel.answers == [("requeue", "t-1")]


def test_what_a_queue_parks_is_not_acknowledged_before_it_is_kept(rig):
    order = []
    rig.channel.basic_ack = lambda *_: order.append("ack")
    rig.parked = Mock(append=lambda *_: order.append("kept"))

    rig.deliver(b"garbage")

    assert order == ["kept", "ack"]


# -- the service's own queue ------------------------------------------------------------------------------------


NOTICE = {"task": "payment.dead_letters", "id": "n-1", "retries": 0, "lang": "py"}


@pytest.fixture(params=FLAVOURS)
def letters(request) -> Rig:
    return Rig(request.param, DeadLetterQueue, "payment.dead_letters")


def test_a_notice_of_a_dead_letter_is_handed_on(letters):
    letters.deliver(b'[["a1b2c3"],{},{}]', dict(NOTICE))

    assert len(letters.ran) == 1
    assert letters.parked == []


def test_nothing_foreign_in_a_notice_reaches_celery(letters):
    letters.deliver(b'[["a1b2c3"],{},{}]', NOTICE | {"stamped_headers": 5, "stamps": [], "group": {}, "root_id": 7})

    assert headers_of(letters.ran[0]) == NOTICE | {"ignore_result": True}


def test_what_rabbitmq_delivered_too_often_is_parked_for_the_handler_it_was_meant_for(letters):
    death = {"x-first-death-queue": QUEUE, "x-first-death-reason": "delivery_limit"}

    letters.deliver(headers=GOOD.headers | death)

    ((handler, message, _),) = letters.parked
    assert handler == HANDLER
    assert message.body == GOOD.body


def test_what_rabbitmq_delivered_too_often_is_replayed_to_the_handler_it_was_meant_for(letters):
    letters.deliver(headers=GOOD.headers | {"x-first-death-queue": QUEUE})

    ((_, message, _),) = letters.parked
    assert message.routing_key == QUEUE


@pytest.mark.parametrize(
    "named",
    [
        *("nobody.knows", "payment.charge", "staging.payment.charged", "staging.", "", "\ud800", "\x1b]0;x", "a" * 300),
        *(5, None, [QUEUE], {}, True),
    ],
)
def test_a_delivery_from_a_queue_that_nobody_knows_is_kept_where_it_is_looked_for(letters, named):
    letters.deliver(headers=GOOD.headers | {"x-first-death-queue": named})

    ((handler, message, _),) = letters.parked
    assert handler == "payment.dead_letters"
    assert message.routing_key == "staging.payment.dead_letters"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"null", NOTICE),
        (b"5", NOTICE),
        (b'{"a":', NOTICE),
        (b"[[],{},{}]", NOTICE),
        (b'[["a"],"abc",{}]', NOTICE),
        (b'[["a"],{"b":1},{}]', NOTICE),
        (b'[["a"],{},{"chord":5}]', NOTICE),
        (b'[["hello"],{},{}]', dict(GOOD.headers)),
        (b'[["a"],{},{}]', {"task": nested_list(850)}),
        (b"garbage", {"x-first-death-queue": nested_list(850)}),
        (b"garbage", {"x-first-death-queue": "\ud800"}),
        (b"[[5],{},{}]", NOTICE),
        (b'[["a"],{},{}]', {key: value for key, value in NOTICE.items() if key != "id"}),
        (b'[["a"],{},{}]', NOTICE | {"id": 5}),
        (b'[["a"],{},{}]', NOTICE | {"timelimit": "abc"}),
        (b'[["a"],{},{}]', NOTICE | {"eta": "tomorrow"}),
        (b"garbage", None),
    ],
)
def test_a_notice_that_celery_would_die_of_is_parked(letters, body, headers):
    letters.deliver(body, headers)

    assert letters.ran == []
    assert len(letters.parked) == 1
    assert letters.channel.answers == [("ack", "t-1")]
