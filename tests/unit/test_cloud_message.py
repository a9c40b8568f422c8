"""A handler's queue reads CloudEvents of any program: in structured and in binary mode, and under foreign types."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from textwrap import dedent
from typing import Any

import pytest
from kombu import Exchange, binding

from choreo import Envelope, Event
from choreo.broker.incoming import Incoming, plain_event
from choreo.broker.queue import DeadLetterQueue, HandlerQueue
from choreo.cli.topology import wanted
from choreo.errors import DeclarationError, EnvelopeError, UnansweredError
from choreo.events.foreign_types import foreign_types
from tests.unit.stage import service
from tests.unit.test_queue import Channel, amqp_message, virtual_message

BLOB = "Microsoft.Storage.BlobCreated"
PATTERNS = ("blob.created", "order.#")
EVENT = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/blobs",
    "type": "order.placed",
    "subject": "ORD-1",
    "time": "2026-01-01T12:00:00Z",
    "datacontenttype": "application/json",
    "tenant": "acme",
    "data": {"total_cents": 2500},
}
STRUCTURED = {"content_type": "application/cloudevents+json; charset=UTF-8"}
MESSAGES = pytest.mark.parametrize("message", [virtual_message, amqp_message], ids=["redis", "rabbitmq"])


class BlobCreated(Event, foreign=(BLOB, "com.example.blob-created.v1")):
    url: str = ""


def read(message: Any, body: Any, headers: Any = None, content_type: Any = None, **changes: Any) -> Envelope:
    """The event in such a delivery, as the handler gets it."""
    channel = Channel()
    delivery = message(channel, body, {} if headers is None else headers, content_type, "utf-8")
    handler_queue(**changes).prepare(delivery)
    text = delivery._decoded_cache[0][0] if hasattr(delivery, "_decoded_cache") else json.loads(delivery.body)[0][0]
    return Envelope.from_wire(json.loads(text))


def handler_queue(kind: type[HandlerQueue] = HandlerQueue, **changes: Any) -> HandlerQueue:
    exchange = Exchange("choreo.events", type="topic")
    bound = [binding(exchange, pattern) for pattern in (*PATTERNS, *foreign_types(PATTERNS))]
    options = {"handler": "shop.hear", "bindings": bound, "foreign": foreign_types(PATTERNS), "park": None}
    return kind("shop.hear", **(options | changes))


def binary(prefix: str, **changes: Any) -> dict[str, Any]:
    """The event's attributes as headers."""
    about = {name: value for name, value in EVENT.items() if name not in ("data", "datacontenttype")}
    return {f"{prefix}{name}": value for name, value in (about | changes).items() if value is not None}


@MESSAGES
@pytest.mark.parametrize("as_bytes", [True, False])
def test_structured_mode_is_read(message: Any, as_bytes: bool) -> None:
    body = json.dumps(EVENT)

    assert read(message, body.encode() if as_bytes else body, **STRUCTURED) == Envelope.from_wire(EVENT)


def test_a_message_of_rabbitmq_need_have_no_headers() -> None:
    delivery = amqp_message(Channel(), json.dumps(EVENT), None, STRUCTURED["content_type"], "utf-8")

    handler_queue().prepare(delivery)

    assert Envelope.from_wire(json.loads(json.loads(delivery.body)[0][0])) == Envelope.from_wire(EVENT)


@MESSAGES
@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce-", "CE-"])
@pytest.mark.parametrize("content_type", ["application/json", "application/vnd.shop+json;charset=utf-8", None])
def test_binary_mode_is_read(message: Any, prefix: str, content_type: str | None) -> None:
    event = read(message, json.dumps(EVENT["data"]).encode(), binary(prefix), content_type)

    assert event == Envelope.from_wire(EVENT)


@MESSAGES
@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"time": 1767268800000}, "time", datetime(2026, 1, 1, 12, tzinfo=UTC)),
        ({"time": datetime(2026, 1, 1, 12)}, "time", datetime(2026, 1, 1, 12, tzinfo=UTC)),
        ({"dataversion": "3"}, "version", 3),
        ({"dataversion": 3}, "version", 3),
        ({"hops": "7"}, "hops", 7),
        ({"correlationid": b"story-1"}, "correlation_id", "story-1"),
        ({"subject": None}, "subject", ""),
        ({"vip": True}, "extensions", {"tenant": "acme", "vip": True}),
    ],
)
def test_the_values_of_headers_are_those_of_the_attributes(message: Any, changes: Any, name: str, value: Any) -> None:
    assert getattr(read(message, b"{}", binary("cloudEvents:", **changes)), name) == value


@MESSAGES
def test_an_event_without_a_body_has_no_fields_and_one_without_a_time_keeps_the_first_that_it_gets(
    message: Any,
) -> None:
    before = datetime.now(UTC)
    event = read(message, b"", binary("cloudEvents:", time=None))

    assert event.data == {}
    assert before <= event.time <= datetime.now(UTC)
    # The text that goes to a process of the pool holds the time: see `read`.


@MESSAGES
@pytest.mark.parametrize(
    ("body", "headers", "content_type", "fault"),
    [
        (b"[]", {}, "application/cloudevents-batch+json", "one event as JSON. Send the events of a batch one by one"),
        (b"{}", {}, "application/cloudevents+avro", "choreo reads 'application/cloudevents\\+json'"),
        (b"[1]", {}, "application/cloudevents+json", "the body is list, not a CloudEvent"),
        (b"{", {}, "application/cloudevents+json", "the body is not JSON"),
        (b'{"a": NaN}', {}, "application/cloudevents+json", "JSON has no NaN"),
        (b"{}", {}, "application/cloudevents+json", "specversion is None"),
        (b"\xff", binary("ce-"), "application/json", "data is not JSON"),
        (b"<a/>", binary("ce-"), "text/xml", "datacontenttype is 'text/xml', and choreo reads JSON"),
        (b"[1]", binary("ce-"), None, "data is list, not a JSON object"),
        (b"{}", binary("ce-", specversion="0.3"), None, "specversion is '0.3'"),
        (b"{}", binary("ce-", id=None), None, "id is None"),
        (b"{}", binary("ce-", ratio=1.5), None, "the attribute ratio is 1.5"),
        (b"{}", binary("ce-", time="noon"), None, "time is 'noon'"),
        (b"{}", binary("ce-", time=10**18), None, "time is 1000000000000000000"),
        (b"[" * 5000, binary("ce-"), None, "data is not JSON|nested"),
        (b'{"a":' + b"[" * 150 + b"]" * 150 + b"}", binary("ce-"), None, "nested more than 100 times"),
        (b"{}", {}, None, "this queue takes events"),
        (b"{}", {"task": "other"} | binary("ce-"), None, "the task is 'other'"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    message: Any, body: bytes, headers: Any, content_type: Any, fault: str
) -> None:
    with pytest.raises(EnvelopeError, match=fault):
        read(message, body, headers, content_type)


@MESSAGES
@pytest.mark.parametrize("foreign", BlobCreated.event_foreign)
def test_a_foreign_type_is_heard_under_the_type_of_its_class(message: Any, foreign: str) -> None:
    event = read(message, json.dumps(EVENT | {"type": foreign, "data": {"url": "s3://a"}}), **STRUCTURED)

    assert (event.type, event.foreign_type) == ("blob.created", foreign)
    assert BlobCreated.read(event).url == "s3://a"


@MESSAGES
def test_a_type_that_the_handler_does_not_hear_is_refused_with_the_way_out(message: Any) -> None:
    with pytest.raises(EnvelopeError, match=r"its type is 'Shop\.Gone', and shop\.hear hears .*foreign='Shop\.Gone'"):
        read(message, json.dumps(EVENT | {"type": "Shop.Gone"}), **STRUCTURED)


def test_an_event_that_rabbitmq_gave_up_is_known_under_the_type_of_its_class() -> None:
    delivery = amqp_message(Channel(), json.dumps(EVENT | {"type": BLOB}), {}, STRUCTURED["content_type"], "utf-8")
    queue = handler_queue(DeadLetterQueue, prefix="", handlers=lambda: ["shop.hear"])

    with pytest.raises(UnansweredError) as refusal:
        queue.prepare(delivery)

    assert refusal.value.envelope is not None
    assert refusal.value.envelope.type == "blob.created"


@pytest.mark.parametrize("foreign", ["", "a b", "a.*", "#", 5, ("",), [5], "é"])
def test_a_foreign_type_that_no_broker_can_route_is_refused(foreign: Any) -> None:
    with pytest.raises(DeclarationError, match="BlobMoved: foreign is"):
        type("BlobMoved", (Event,), {"__module__": __name__}, foreign=foreign)


def test_a_foreign_type_of_two_events_is_refused_where_one_handler_would_hear_both() -> None:
    code = """
        from choreo import DeclarationError, Event
        from choreo.events.foreign_types import foreign_types

        class BlobDoubled(Event, foreign="Blob.Twice"): pass
        class BlobTwisted(Event, foreign="Blob.Twice"): pass

        assert foreign_types(["blob.doubled"]) == {"Blob.Twice": "blob.doubled"}
        try:
            foreign_types(["blob.doubled", "blob.twisted"])
        except DeclarationError as error:
            print(error)
    """
    # In a process of its own: here, every handler that hears all events would be refused from now on.
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("'Blob.Twice' is the foreign type of")


def test_each_version_of_an_event_can_name_its_foreign_type() -> None:
    class BlobSplitV1(Event, type="blob.split", foreign="Blob.Split"):
        pass

    class BlobSplit(Event, version=2, foreign=("Blob.Split", "Blob.Split.v2")):
        pass

    assert foreign_types(["blob.*"])["Blob.Split"] == "blob.split"
    assert foreign_types(["blob.split"]) == dict.fromkeys(["Blob.Split", "Blob.Split.v2"], "blob.split")
    assert issubclass(BlobSplitV1, Event)
    assert issubclass(BlobSplit, Event)


def test_the_queue_of_a_handler_is_bound_to_the_foreign_types_of_its_events() -> None:
    app = service("shop")

    @app.on(BlobCreated)
    def hear(blob: BlobCreated) -> None: ...

    topology = app.runtime.topology
    names = sorted(["blob.created", *BlobCreated.event_foreign])

    assert sorted(bound.routing_key for bound in topology.queues()[0].bindings) == names
    assert {queue: sorted(patterns) for queue, patterns in topology.patterns().items()} == {"shop.hear": names}
    assert sorted(wanted(app).handlers["shop.hear"]) == names
    assert app.runtime.describe().handlers[0].foreign == foreign_types(["blob.created"])
    assert topology.queues()[0].foreign == topology.queues()[1].foreign == foreign_types(["blob.created"])


def test_a_task_message_without_a_time_hands_one_time_on() -> None:
    wire = {name: value for name, value in EVENT.items() if name != "time"}
    body = f"[[{json.dumps(wire, separators=(',', ':'))}],{{}},{{}}]"
    delivery = virtual_message(Channel(), body, {"task": "choreo.event"}, "application/json", "utf-8")

    event, _ = Incoming(delivery).event()

    assert Envelope.from_wire(json.loads(event)).time == event.envelope.time
    assert plain_event(redis_text(EVENT)) is not None
    assert plain_event(redis_text(wire)) is None


def redis_text(wire: dict[str, Any]) -> bytes:
    """A task message with this event, as it is in a list of Redis."""
    body = f"[[{json.dumps(wire, separators=(',', ':'))}],{{}},{{}}]"
    headers = {"task": "choreo.event", "retries": 0}
    properties = {"body_encoding": "utf-8", "delivery_info": {}}
    message = {"body": body, "headers": headers, "properties": properties, "content-type": "application/json"}
    return json.dumps(message).encode()
