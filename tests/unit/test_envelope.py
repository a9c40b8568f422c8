"""The envelope is CloudEvents 1.0: what it says comes back, and what is no envelope is refused by name."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo import Envelope
from choreo.errors import EnvelopeError

TEXT = st.text(st.characters(codec="utf-8"), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
WIRE = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "order",
    "type": "order.placed",
    "subject": "ORD-1",
    "time": "2026-01-01T12:00:00+00:00",
    "datacontenttype": "application/json",
    "correlationid": "story-1",
    "causationid": "e-0",
    "dataversion": 2,
    "data": {"customer_id": "alice"},
}


def test_an_envelope_is_read_from_cloud_events_and_written_as_cloud_events():
    read = Envelope.from_wire(WIRE)

    assert read == Envelope(
        id="e-1",
        type="order.placed",
        source="order",
        subject="ORD-1",
        time=datetime(2026, 1, 1, 12, tzinfo=UTC),
        correlation_id="story-1",
        causation_id="e-0",
        version=2,
        data={"customer_id": "alice"},
    )
    assert read.to_wire() == WIRE


@given(
    envelope=st.builds(
        Envelope,
        id=TEXT,
        type=TEXT,
        source=TEXT,
        subject=st.text(),
        time=st.datetimes(timezones=st.just(UTC)),
        correlation_id=TEXT,
        causation_id=st.none() | TEXT,
        version=st.integers(min_value=1),
        data=st.dictionaries(TEXT, JSON, max_size=4),
        extensions=st.dictionaries(
            st.from_regex("x[a-z0-9]{0,18}", fullmatch=True),
            TEXT | st.booleans() | st.integers(-(2**31), 2**31 - 1),
            max_size=2,
        ),
    )
)
def test_every_envelope_comes_back_as_it_was(envelope):
    assert Envelope.from_wire(envelope.to_wire()) == envelope


def test_what_is_optional_has_a_default():
    before = datetime.now(UTC)
    bare = Envelope.from_wire({key: WIRE[key] for key in ("specversion", "id", "source", "type")})

    assert before <= bare.time <= datetime.now(UTC)
    assert bare.subject == ""
    assert bare.correlation_id == "e-1"
    assert bare.causation_id is None
    assert bare.version == 1
    assert bare.data == {}


def test_an_event_without_a_cause_has_no_causationid_on_the_wire():
    wire = {key: value for key, value in WIRE.items() if key != "causationid"}

    assert Envelope.from_wire(wire).to_wire() == wire


def test_attributes_that_this_version_does_not_know_are_passed_on():
    traced = {**WIRE, "traceparent": "00-abc-def-01", "dataschema": "https://example.org/order.json", "vip": True}

    read = Envelope.from_wire(traced)

    assert read.extensions == {name: traced[name] for name in ("traceparent", "dataschema", "vip")}
    assert read.to_wire() == traced


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-01T14:00:00+02:00",
        "2026-01-01T12:00:00Z",
        "2026-01-01T12:00:00",
        "2026-01-01t12:00:00z",
        "2026-01-01t12:00:00.000000000z",
        "2026-01-01T11:59:60Z",
        "2026-01-01t13:59:60.0+02:00",
    ],
)
def test_a_time_is_an_instant_in_utc_unless_it_says_otherwise(time):
    read = Envelope.from_wire({**WIRE, "time": time})

    assert read.time == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert read.time.utcoffset() in (timedelta(0), timedelta(hours=2))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"id": None}, "id is None"),
        ({"id": ""}, "id is ''"),
        ({"id": 5}, "id is 5"),
        ({"type": ["order.placed"]}, "type is"),
        ({"source": ""}, "source is ''"),
        ({"subject": 7}, "subject is 7"),
        ({"time": "yesterday"}, "time is 'yesterday'"),
        ({"time": "9999-12-31T23:59:60Z"}, "time is '9999-12-31T23:59:60Z'"),
        ({"time": "2026-01-01T12:00:61Z"}, "time is"),
        ({"time": 1767268800}, "time is 1767268800"),
        ({"correlationid": {}}, "correlationid is"),
        ({"causationid": 5}, "causationid is 5"),
        ({"dataversion": "2"}, "dataversion is '2'"),
        ({"dataversion": 0}, "dataversion is 0"),
        ({"dataversion": True}, "dataversion is True"),
        ({"data": [1]}, "data is list"),
        ({"data": "text"}, "data is str"),
        ({"data": {}, "data_base64": "e30="}, "both data and data_base64"),
        ({"data": None, "data_base64": "WzFd"}, "data is list"),
        ({"data": None, "data_base64": "a"}, "data_base64 is 'a', not base64"),
        ({"data": None, "data_base64": 5}, "data_base64 is 5, not base64"),
        ({"data": None, "data_base64": "/w=="}, "data is not JSON"),
        ({"data": None, "data_base64": "TmFO"}, "JSON has no NaN"),
        ({"data": None, "data_base64": "e30=", "datacontenttype": "application/x-protobuf"}, "datacontenttype is"),
        ({"datacontenttype": "text/xml"}, "datacontenttype is 'text/xml', and choreo reads JSON"),
        ({"datacontenttype": "application/jsonl"}, "datacontenttype is 'application/jsonl'"),
        ({"datacontenttype": 5}, "datacontenttype is 5"),
        ({"data": None, "data_base64": "e30=", "datacontenttype": "text/json; charset=utf-16"}, "JSON in UTF-8"),
        ({"specversion": "0.3"}, "specversion is '0.3', and choreo reads CloudEvents 1.0"),
        ({"specversion": None}, "specversion is None"),
        ({"partitionKey": "a"}, "an attribute 'partitionKey': a name consists of lower-case"),
        ({"": "a"}, "an attribute ''"),
        ({"ratio": 1.5}, "the attribute ratio is 1.5: CloudEvents allows"),
        ({"large": 2**31}, "the attribute large is 2147483648"),
        ({"nested": {"a": 1}}, "the attribute nested is"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(change, named):
    with pytest.raises(EnvelopeError, match=named):
        Envelope.from_wire({**WIRE, **change})


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
def test_what_is_required_is_asked_for_by_its_name(name):
    with pytest.raises(EnvelopeError, match=f"{name} is None"):
        Envelope.from_wire({key: value for key, value in WIRE.items() if key != name})


@pytest.mark.parametrize("wire", [None, 5, "order.placed", [], [WIRE]])
def test_what_is_no_object_is_no_envelope(wire):
    with pytest.raises(EnvelopeError, match="an envelope is a JSON object, not"):
        Envelope.from_wire(wire)


def test_its_text_is_its_type_and_subject():
    assert str(Envelope.from_wire(WIRE)) == "order.placed ORD-1"
    assert str(Envelope.from_wire({**WIRE, "subject": ""})) == "order.placed"


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ({}, {}),
        ({"data": None}, {}),
        ({"data": None, "datacontenttype": "text/plain"}, {}),
        ({"data_base64": None}, {}),
        ({"data": {"a": 1}}, {"a": 1}),
        ({"data": {"a": 1}, "datacontenttype": None}, {"a": 1}),
        ({"data": {"a": 1}, "datacontenttype": "application/json; charset=utf-8"}, {"a": 1}),
        ({"data": {"a": 1}, "datacontenttype": "application/vnd.shop.order+json"}, {"a": 1}),
        ({"data": {"a": 1}, "datacontenttype": "TEXT/JSON"}, {"a": 1}),
        ({"data_base64": "eyJhIjogMX0="}, {"a": 1}),
        ({"data_base64": "eyJhIjogMX0=", "datacontenttype": 'application/json;charset="UTF-8"'}, {"a": 1}),
        ({"data_base64": ""}, {}),
    ],
)
def test_the_data_of_another_program_may_have_any_form_of_json(form, data):
    bare = {key: WIRE[key] for key in ("specversion", "id", "source", "type", "time")}

    read = Envelope.from_wire(bare | form)

    assert read.data == data
    assert read.to_wire()["datacontenttype"] == "application/json"
    assert Envelope.from_wire(read.to_wire()) == read


def test_an_attribute_that_is_null_is_not_there():
    nothing = dict.fromkeys(
        ("subject", "time", "correlationid", "causationid", "dataversion", "dataschema", "tenant", "hops")
    )

    read = Envelope.from_wire({**WIRE, **nothing})

    assert (read.subject, read.correlation_id, read.causation_id, read.version) == ("", "e-1", None, 1)
    assert not read.extensions


def test_an_empty_attribute_does_not_leave():
    read = Envelope.from_wire({**WIRE, "subject": "", "correlationid": "", "causationid": ""})

    assert read.correlation_id == "e-1"
    assert "subject" not in read.to_wire()


def test_an_event_that_is_heard_under_another_type_keeps_its_own():
    event = Envelope.from_wire({**WIRE, "type": "Shop.OrderPlaced", "tenant": "acme"})
    heard = event.heard_as("order.placed")

    assert (heard.type, heard.foreign_type, event.foreign_type) == ("order.placed", "Shop.OrderPlaced", "")
    assert heard.identity == event.identity
    assert Envelope.from_wire(heard.to_wire()) == heard
    assert heard.extensions["tenant"] == "acme"
