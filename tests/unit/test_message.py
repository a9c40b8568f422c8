"""A message keeps through the schedule what it is on the wire."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from choreo.events.lineage import NO_LINEAGE, Lineage, lineage_of
from choreo.events.message import EVENT_TASK, Message, compact, parsed, strict
from tests.unit.events import OrderPlaced, envelope

ORDER = envelope(OrderPlaced(customer_id="Zoë"), subject="ORD-1", id="e-1", causation_id="e-0")


def test_an_event_travels_as_an_ordinary_celery_task_message():
    message = Message.carrying(ORDER, exchange="choreo.events", routing_key="order.placed")

    args, kwargs, embed = json.loads(message.body)
    assert (args, kwargs, embed) == ([ORDER.to_wire()], {}, {})
    assert message.headers["task"] == EVENT_TASK
    assert message.headers["id"] == "e-1"
    assert (message.headers["root_id"], message.headers["parent_id"]) == (None, None), "no task has announced it"
    assert message.headers["argsrepr"] == "order.placed ORD-1"
    assert message.headers["retries"] == 0
    assert message.content_type == "application/json"


def test_an_event_names_the_task_that_announced_it():
    message = Message.carrying(ORDER, exchange="", routing_key="", lineage=Lineage("t-0", "t-1"))

    assert (message.headers["root_id"], message.headers["parent_id"]) == ("t-0", "t-1")
    assert lineage_of(message.headers) == Lineage("t-0", "t-1")


@pytest.mark.parametrize("strange", [7, "", "x" * 256, "\ud800", "a\nb", ["t-1"]])
def test_what_is_no_id_is_no_lineage(strange: Any):
    assert lineage_of({"root_id": strange, "parent_id": strange}) == NO_LINEAGE


def test_an_attempt_says_how_many_came_before():
    assert Message.carrying(ORDER, exchange="", routing_key="payment.charge", retries=3).headers["retries"] == 3


@given(
    body=st.binary() | st.text().map(str.encode),
    headers=st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.none()), max_size=4),
    content_type=st.text(),
    content_encoding=st.text(),
)
def test_every_message_comes_back_byte_for_byte(body, headers, content_type, content_encoding):
    message = Message("", "payment.charge", body, headers, content_type, content_encoding)

    assert Message.from_json(message.to_json()) == message
    assert Message.from_json(message.to_json().encode()) == message


def test_a_header_that_json_cannot_hold_is_kept_as_text():
    message = Message("", "payment.charge", b"", {"x-death": [{"time": datetime(2026, 1, 1, tzinfo=UTC)}]})

    assert Message.from_json(message.to_json()).headers == {"x-death": [{"time": "2026-01-01 00:00:00+00:00"}]}


def answer_of(parse: Callable[[Any], Any], text: Any) -> Any:
    try:
        return repr(parse(text))
    except Exception as error:
        return type(error), str(error)


#: What JSON is made of, put together well and badly.
_PIECES = st.sampled_from(
    [
        *r'[ ] { } : , " \ \u \ud83d\ude00 \ud800 null true NaN -Infinity - 0 01 1.5 1e400 5e-324 1E5 é x'.split(),
        *(" ", "\t", "\n", "\0", "\ufeff", "\ud800", "9" * 30, "9" * 5000),
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(_JSON.map(json.dumps) | st.lists(_PIECES, max_size=8).map("".join) | st.binary(max_size=8))
@example("[" * 300 + "]" * 300)
@example("[" * 100_000)
@example(None)
@example(b'"\xff"')
def test_a_text_is_parsed_as_the_standard_library_does(text: Any):
    assert answer_of(parsed, text) == answer_of(json.loads, text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.none() | st.booleans(), inner),
    )
)
def test_json_is_written_as_the_standard_library_writes_it(value: Any) -> None:
    for write, nan in ((compact, True), (strict, False)):
        encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=nan)
        try:
            expected = encoder.encode(value)
        except ValueError as error:
            with pytest.raises(ValueError, match=re.escape(str(error))):
                write(value)
        else:
            assert write(value) == expected


@pytest.mark.parametrize("write", [compact, strict])
def test_what_json_cannot_say_is_an_error(write: Callable[[Any], str]) -> None:
    circle: list[Any] = []
    circle.append(circle)

    with pytest.raises(RecursionError):
        write(circle)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write({"a": object()})
    with pytest.raises(TypeError, match="keys must be"):
        write({(): 1})
