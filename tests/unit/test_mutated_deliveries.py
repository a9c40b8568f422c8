"""Deliveries that are almost right, in every way that a generator thinks of: read, or set aside; never an error."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kombu import Exchange, binding
from kombu.serialization import loads

from choreo.broker.incoming import UNREADABLE, Incoming
from choreo.broker.intake import IntakeQueue
from choreo.broker.queue import DeadLetterQueue, GuardedQueue, HandlerQueue
from choreo.broker.task_queue import TaskQueue
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.errors import EnvelopeError
from choreo.events.cloud_events import STRUCTURED
from choreo.events.message import JSON, Message, is_too_deep
from tests.unit.test_queue import FLAVOURS, GOOD, NOTICE, WIRE, Channel, arrived_at_celery

#: Stands for brackets that no encoder would write.
DEEP = "<brackets>"


def brackets(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ODDITIES: list[Any] = [
    *[None, True, -1, 0, 1e400, float("nan"), 10**30, "", "x", "é", "\ud800", "[]", "{}", "[[1],{},{}]", "hello"],
    *[[], {}, [1], ["x"], {"a": 1}, {"task": 1}, {"__type__": "decimal", "__value__": "abc"}],
    *["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", json.dumps(WIRE), "[" * 5000, DEEP],
]
#: Only in headers, where they are objects.
DEPTHS = [brackets(90), brackets(150), brackets(850), brackets(5000), {"a": brackets(850)}]

ALL = [binding(Exchange("choreo.events", type="topic"), "#")]
HANDLER = HandlerQueue("q", handler="payment.charge", park=None, bindings=ALL, foreign={"order.placed": "order.known"})
ATTRIBUTES = {f"cloudEvents:{name}": value for name, value in WIRE.items() if name not in ("data", "datacontenttype")}
QUEUES: dict[str, tuple[GuardedQueue, dict[str, Any], Any]] = {
    "handler": (HANDLER, dict(GOOD.headers), [[WIRE], {}, {}]),
    "structured": (HANDLER, {}, {**WIRE, "data_base64": None}),
    "binary": (HANDLER, ATTRIBUTES, WIRE["data"]),
    "intake": (IntakeQueue("i", handler="payment", park=None, forward=None, raw_type=UNREADABLE), {}, WIRE),
    "letters": (
        DeadLetterQueue("d", handler=NOTICE["task"], park=None, prefix="", handlers=lambda: ()),
        NOTICE,
        [["a1b2c3"], {}, {}],
    ),
    "tasks": (
        TaskQueue("t", handler="payment", park=None, tasks=lambda: {"payment.plain"}, accept=lambda: {JSON}),
        {"task": "payment.plain", "id": "t-1", "retries": 0, "eta": None, "timelimit": [None, None]},
        [[1], {"a": 2}, {"callbacks": None, "chord": None}],
    ),
}
#: The content types of those that are no tasks.
TYPES = {"structured": STRUCTURED, "intake": UNREADABLE}
HEADERS = "task id retries eta expires timelimit compression x-first-death-queue stamps stamped_headers".split()


def mutated(draw: st.DrawFn, value: Any, odd: st.SearchStrategy[Any], left: int = 5) -> Any:
    """The value with something odd in some of its places, or something missing."""
    if left == 0 or draw(st.integers(0, 9)) == 0:
        return draw(odd)
    if isinstance(value, dict):
        kept = {name: part for name, part in value.items() if draw(st.integers(0, 19))}
        return {
            name: mutated(draw, part, odd, left - 1) if draw(st.integers(0, 3)) == 0 else part
            for name, part in kept.items()
        }
    if isinstance(value, list):
        return [mutated(draw, part, odd, left - 1) if draw(st.booleans()) else part for part in value]
    return draw(odd)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[GuardedQueue, Any]:
    kind = draw(st.sampled_from(list(QUEUES)))
    queue, headers, body = QUEUES[kind]
    odd = st.sampled_from(ODDITIES)
    if draw(st.booleans()):
        headers = mutated(draw, headers, st.sampled_from(ODDITIES + DEPTHS))
    if isinstance(headers, dict) and draw(st.booleans()):
        headers = headers | {draw(st.sampled_from(HEADERS)): draw(st.sampled_from(ODDITIES + DEPTHS))}
    text = json.dumps(mutated(draw, body, odd) if draw(st.integers(0, 3)) else body)
    if draw(st.booleans()):
        text = text.replace(json.dumps(DEEP), draw(st.sampled_from(["[" * n + "]" * n for n in (90, 900, 100_000)])))
    content_type = draw(st.sampled_from([TYPES.get(kind, JSON)] * 6 + [None, 5, "x", ["x"], brackets(5000)]))
    encoding = draw(st.sampled_from(["utf-8"] * 4 + [None, 5, "no-such-codec"]))
    flavour = FLAVOURS[draw(st.sampled_from(list(FLAVOURS)))]
    try:
        return queue, flavour(Channel(), text.encode(), headers, content_type, encoding)
    except Exception:  # not even the client would make a message of it
        return queue, flavour(Channel(), text.encode(), {}, JSON, "utf-8")


# What it finds is small enough to look at; making it smaller takes minutes.
@settings(max_examples=2 * settings().max_examples, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(deliveries())
def test_a_delivery_is_made_one_that_can_be_run_or_is_set_aside_and_can_be_replayed(delivery: tuple[Any, Any]) -> None:
    queue, message = delivery
    before = bytes(message.body) if isinstance(message.body, bytes) else str(message.body).encode()
    try:
        queue.prepare(message)
    except EnvelopeError as error:
        handler, name = queue.origin(message)
        assert handler.isprintable()
        check_kept(Incoming(message).raw(name), before, str(error))
    else:
        if isinstance(queue, IntakeQueue):
            assert isinstance(Message.structured(message.choreo_event, exchange="e"), Message)
            return
        # Celery's own reading of it.
        arrived = arrived_at_celery(message)
        args, kwargs, _ = loads(arrived.body, arrived.content_type, arrived.content_encoding, accept=[JSON])
        assert isinstance(args, list)
        assert isinstance(kwargs, dict)


def check_kept(message: Message, body: bytes, error: str) -> None:
    """The letter can be written, and read again with every byte of the body."""
    letter = DeadLetter("payment", "payment.charge", Reason.UNREADABLE, error, message)
    again = DeadLetter.from_json(letter.to_json()).message
    assert again.body == message.body == body
    assert (again.content_type, again.content_encoding) == (message.content_type, message.content_encoding)
    assert again.headers.keys() == message.headers.keys()
    same = [name for name, value in message.headers.items() if not is_too_deep(value) and value == value]
    assert json.dumps([again.headers[name] for name in same]) == json.dumps([message.headers[name] for name in same])


@pytest.mark.parametrize("depth", [101, 850, 5000])
def test_a_letter_with_headers_nested_beyond_reading_is_kept_with_the_others(depth: int) -> None:
    message = Message("", "q", b"x", {"task": "t", "deep": brackets(depth), "flat": [1, {"a": 2}]})

    again = Message.from_json(message.to_json())

    assert (again.headers["task"], again.headers["flat"]) == ("t", [1, {"a": 2}])
    assert again.headers["deep"].startswith("[[[")
