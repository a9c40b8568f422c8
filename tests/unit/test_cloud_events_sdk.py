"""The official SDK of CloudEvents as the oracle: what it writes is read, and what choreo writes it reads alike."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from choreo import Envelope
from choreo.broker.cloud_message import cloud_event_in
from choreo.events.message import Message

# The specification allows no control characters in attributes.
WORD = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=20)
NAME = st.from_regex("x[a-z0-9]{0,15}", fullmatch=True)
VALUE = WORD | st.booleans() | st.integers(-(2**31), 2**31 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=5,
)
DATA = st.dictionaries(WORD, JSON, max_size=3)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=ZONES)
REQUIRED = {"specversion": st.just("1.0"), "id": WORD, "source": WORD, "type": WORD}
OPTIONAL = {"subject": WORD, "time": TIMES, "dataschema": WORD, "datacontenttype": st.just("application/json")}
ATTRIBUTES = st.tuples(
    st.fixed_dictionaries(REQUIRED, optional=OPTIONAL), st.dictionaries(NAME, VALUE, max_size=3)
).map(lambda parts: parts[1] | parts[0])
ENVELOPES = st.builds(
    Envelope,
    id=WORD,
    type=WORD,
    source=WORD,
    subject=st.just("") | WORD,
    time=TIMES,
    correlation_id=WORD,
    causation_id=st.none() | WORD,
    version=st.integers(1, 2**31 - 1),
    hops=st.integers(0, 100),
    data=DATA,
    extensions=st.dictionaries(NAME, VALUE, max_size=2) | st.fixed_dictionaries({"dataschema": WORD}),
)


def assert_same(envelope: Envelope, event: Any, *, milliseconds: bool = False) -> None:
    """Choreo and the SDK say the same of an event."""
    extensions = {
        name: value
        for name, value in event.get_attributes().items()
        if name not in (*REQUIRED, "subject", "time", "datacontenttype")
        and name not in ("correlationid", "causationid", "dataversion", "hops")
    }
    assert (envelope.id, envelope.source, envelope.type) == (event.get_id(), event.get_source(), event.get_type())
    assert envelope.subject == (event.get_subject() or "")
    assert envelope.extensions == extensions
    assert envelope.data == (event.get_data() or {})
    if (time := event.get_time()) is not None:
        assert abs(envelope.time - time) < timedelta(milliseconds=1 if milliseconds else 0.001)


@given(ATTRIBUTES, st.none() | DATA | DATA.map(lambda data: json.dumps(data).encode()))
def test_an_event_that_the_sdk_writes_as_json_is_read_alike(attributes: Any, data: Any) -> None:
    event = CloudEvent(attributes, data)
    read = Envelope.from_wire(json.loads(JSONFormat().write(event)))

    assert_same(read, CloudEvent(attributes, json.loads(data) if isinstance(data, bytes) else data))


@pytest.mark.parametrize("mode", ["structured", "binary"])
@given(attributes=ATTRIBUTES, data=st.none() | DATA)
def test_an_amqp_message_that_the_sdk_makes_is_read_alike(mode: str, attributes: Any, data: Any) -> None:
    event = CloudEvent(attributes, data)
    made = getattr(amqp, f"to_{mode}")(event, JSONFormat())
    wire = cloud_event_in(made.properties.get("content-type"), made.application_properties, made.application_data)

    assert wire is not None
    assert_same(Envelope.from_wire(wire), event, milliseconds=mode == "binary")


@pytest.mark.parametrize("mode", ["structured", "binary"])
@given(attributes=ATTRIBUTES, data=st.none() | DATA)
def test_a_rabbitmq_message_that_the_sdk_makes_is_read_alike(mode: str, attributes: Any, data: Any) -> None:
    # In this binding all attributes are texts.
    attributes = {name: value for name, value in attributes.items() if isinstance(value, str | datetime)}
    event = CloudEvent(attributes, data)
    made = getattr(rabbitmq, f"to_{mode}")(event, JSONFormat())
    wire = cloud_event_in(getattr(made, "content_type", None), made.headers, made.body)

    assert wire is not None
    assert_same(Envelope.from_wire(wire), event)


@given(ENVELOPES)
def test_what_choreo_writes_is_read_alike_by_the_sdk(envelope: Envelope) -> None:
    message = Message.carrying(envelope, exchange="e", routing_key=envelope.type)

    event = JSONFormat().read(None, message.plain_event())

    assert_same(envelope, event)
    assert event.get_datacontenttype() == "application/json"
    assert event.get_extension("correlationid") == envelope.correlation_id
    assert event.get_extension("dataversion") == envelope.version
    assert message.plain_event() == Message.structured(envelope, exchange="e").body


@given(ENVELOPES)
def test_an_event_comes_back_from_the_sdk_as_it_was(envelope: Envelope) -> None:
    event = JSONFormat().read(None, json.dumps(envelope.to_wire()))

    back = Envelope.from_wire(json.loads(JSONFormat().write(event)))

    assert back == envelope
    assert back.time == envelope.time.astimezone(UTC)
