"""
CloudEvents in messages of other programs, in the two modes of the AMQP protocol binding.

- *Structured mode*: the body is the whole event as JSON, and the content type `STRUCTURED`.
- *Binary mode*: the attributes are headers such as ``cloudEvents:type``, the body is the data, and the content type is
  that of the data.

See https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from choreo.errors import EnvelopeError
from choreo.events.cloud_events import STRUCTURED, brief, data_in, json_in

#: The name of the queue, after the namespace, to which programs in other languages send events: see
#: `choreo.broker.intake`.
INTAKE = "choreo.intake"
#: The starts of the headers that hold attributes in binary mode, in lower case. The specification has the first two,
#: the SDKs for RabbitMQ send the third.
_PREFIXES = ("cloudevents:", "cloudevents_", "ce-")
#: What the content types of structured mode begin with, those of batches and other formats among them.
_FORMATS = "application/cloudevents"
#: choreo's own attributes that are numbers. A program may send any attribute as a text.
_NUMBERS = ("dataversion", "hops")


def cloud_event_in(content_type: Any, headers: Mapping[Any, Any], body: str | bytes) -> dict[str, Any] | None:
    """
    The event in a message of another program, as a JSON object for `Envelope.from_wire`; None if it is no CloudEvent.

    Raises `EnvelopeError` if it is one that choreo cannot read.
    """
    if isinstance(content_type, str) and content_type.lower().startswith(_FORMATS):
        return structured(content_type, body)
    attributes = {name: value for key, value in headers.items() if (name := _attribute(key))}
    if not attributes:
        return None
    attributes.pop("datacontenttype", None)
    if (data := data_in(body, content_type)) is not None:
        attributes["data"] = data
    return attributes | {name: _plain(name, value) for name, value in attributes.items() if name != "data"}


def structured(content_type: str, body: str | bytes) -> dict[str, Any]:
    """The event in a body of this content type. Raises `EnvelopeError`."""
    if content_type.partition(";")[0].strip().lower() != STRUCTURED:
        raise EnvelopeError(
            f"the content type is {brief(content_type)}, and choreo reads {STRUCTURED!r}: one event as JSON. Send the "
            f"events of a batch one by one."
        )
    wire = json_in(body, "the body")
    if not isinstance(wire, dict):
        raise EnvelopeError(f"the body is {type(wire).__name__}, not a CloudEvent as a JSON object")
    return wire


def _attribute(key: Any) -> str:
    """The name of the attribute in a header; "" if it holds none."""
    if isinstance(key, str):
        for prefix in _PREFIXES:
            if key[: len(prefix)].lower() == prefix:
                return key[len(prefix) :]
    return ""


def _plain(name: str, value: Any) -> Any:
    """The value of an attribute as JSON has it."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if name == "time" and type(value) is int:  # an AMQP timestamp, in milliseconds
        try:
            value = datetime.fromtimestamp(value / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            return value
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if name in _NUMBERS and isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value
