"""Broker messages, ready to be sent. The schedule keeps them, and the publisher sends them."""

import json
import reprlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from choreo.events.cloud_events import JSON, STRUCTURED
from choreo.events.drafts import draft_of
from choreo.events.envelope import Envelope
from choreo.events.lineage import NO_LINEAGE, Lineage

#: The task name of every announced event. The queue that holds a copy determines the handler.
EVENT_TASK = "choreo.event"
#: The number of levels to which the data of an event may be nested. Python reads and writes JSON recursively, so the
#: deepest possible nesting depends on the depth of the call stack: code at one place can read what code at another
#: place cannot write.
MOST_NESTED = 100


def _writer(*, allow_nan: bool) -> Callable[[Any], str]:
    """Write JSON without spaces as `json.JSONEncoder` does, which would make an encoder for each call."""
    encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=allow_nan, check_circular=False)
    make: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    if make is None:  # a Python without the accelerator
        return encoder.encode
    # Without a record of the containers it is in, which would be shared by threads, a circle is a `RecursionError`.
    write = make(None, encoder.default, json.encoder.encode_basestring, None, ":", ",", False, False, allow_nan)
    join = "".join

    def encode(value: Any) -> str:
        """Return the value as JSON. Raises `TypeError`, `ValueError` or `RecursionError` if JSON cannot say it."""
        return join(write(value, 0))

    return encode


#: Writes JSON without spaces.
compact = _writer(allow_nan=True)
#: The same for what this program announces. Raises `ValueError` for NaN and for infinite numbers: JSON has none. Events
#: of other programs may hold them, and are written as they came.
strict = _writer(allow_nan=False)


def parsed(text: str | bytes) -> Any:
    """Return the result of ``json.loads``, in half the time. Raises the same errors."""
    try:
        return from_json(text)
    except (ValueError, TypeError):
        # Half a surrogate pair, or more than 200 levels: json.loads accepts both. For all else it raises its own error.
        return json.loads(text)


def is_too_deep(value: Any, most: int = MOST_NESTED) -> bool:
    """Return True if lists and objects are nested more than ``most`` levels deep."""
    level = [value]
    for _ in range(most + 1):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        if not inner:
            return False
        level = inner
    return any(isinstance(one, (dict, list)) for one in level)


def task_headers(
    task: str,
    id: str,  # noqa: A002 - Celery's name
    *,
    root_id: str | None,
    parent_id: str | None,
    argsrepr: str,
    origin: str,
    retries: int = 0,
) -> dict[str, Any]:
    """
    The headers of a Celery task message, protocol 2: https://docs.celeryq.dev/en/stable/internals/protocol.html

    ``argsrepr`` is what Flower shows as the arguments.
    """
    return {
        "lang": "py",
        "task": task,
        "id": id,
        "root_id": root_id,
        "parent_id": parent_id,
        "group": None,
        "eta": None,
        "expires": None,
        "retries": retries,
        "timelimit": [None, None],
        "argsrepr": argsrepr,
        "kwargsrepr": "",
        "origin": origin,
        "ignore_result": True,
    }


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the broker: its address, headers and body."""

    #: The exchange that routes the message. '' sends it to the queue that ``routing_key`` names.
    exchange: str
    routing_key: str
    body: bytes
    #: The headers of Celery's task protocol 2, or those of a message from another program.
    headers: dict[str, Any] = field(default_factory=dict)
    content_type: str = JSON
    content_encoding: str = "utf-8"

    @property
    def retries(self) -> int:
        """How many attempts were made before this message. 0 if its header is no number."""
        retries = self.headers.get("retries")
        return retries if type(retries) is int else 0

    @classmethod
    def carrying(
        cls,
        envelope: Envelope,
        *,
        exchange: str,
        routing_key: str,
        retries: int = 0,
        lineage: Lineage = NO_LINEAGE,
        encode: Callable[[Any], str] = compact,
    ) -> "Message":
        """An ordinary Celery task message (protocol 2) with this envelope as its only argument."""
        headers = task_headers(
            EVENT_TASK,
            envelope.id,
            root_id=lineage.root_id,
            parent_id=lineage.parent_id,
            argsrepr=str(envelope),
            origin=envelope.source,
            retries=retries,
        )
        body = encode([[envelope.to_wire()], {}, {}]).encode()
        made = _Draft()
        made.exchange, made.routing_key, made.body, made.headers = exchange, routing_key, body, headers
        made.content_type, made.content_encoding = JSON, "utf-8"
        made.__class__ = cls
        return made  # type: ignore[no-any-return]

    @classmethod
    def structured(cls, envelope: Envelope, *, exchange: str) -> "Message":
        """A plain CloudEvent in structured mode. Its routing key is its type."""
        body = compact(envelope.to_wire()).encode()
        return cls(exchange, envelope.type, body, content_type=STRUCTURED)

    def plain_event(self) -> bytes:
        """The event of a message from `carrying` or `structured` as a CloudEvent in JSON."""
        is_task = self.body.startswith(_BEFORE) and self.body.endswith(_AFTER)
        return self.body[len(_BEFORE) - 1 : 1 - len(_AFTER)] if is_task else self.body

    def to_json(self) -> str:
        """Return the message as JSON. A header that is nested too deeply is replaced by its shortened ``repr``."""
        try:
            body, encoded = self.body.decode(), False
        except UnicodeDecodeError:
            body, encoded = b64encode(self.body).decode(), True
        record = {
            "exchange": self.exchange,
            "routing_key": self.routing_key,
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
            "base64": encoded,
            "body": body,
        }
        # A header of a foreign message can hold a value that JSON cannot (a timestamp in an AMQP table), and any value
        # may raise any error when it is written.
        for form in (_writable, _named, _shortened):
            with suppress(Exception):
                return json.dumps(record | {"headers": form(self.headers)}, separators=(",", ":"), default=str)
        raise AssertionError("a shortened text can always be written")

    @classmethod
    def from_json(cls, text: str | bytes) -> "Message":
        """Read a message that `to_json` wrote. Raises one of Python's errors for anything else."""
        record = json.loads(text)
        encoded, body = record.pop("base64"), record.pop("body")
        message = cls(body=b64decode(body) if encoded else body.encode(), **record)
        texts = message.exchange, message.routing_key, message.content_type, message.content_encoding
        if not all(isinstance(text, str) for text in texts) or not isinstance(message.headers, dict):
            raise TypeError("its address, its content type or its headers are none")
        return message


#: The bytes before and after an event in the body of a task message that `Message.carrying` writes.
_BEFORE, _AFTER = b"[[{", b"}],{},{}]"

_Draft: Any = draft_of(Message)


def _named(value: Any) -> Any:
    """The value as `_writable` gives it, with a text for the name of each entry of its tables."""
    return _with_names(_writable(value))


def _with_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {name if isinstance(name, str) else str(name): _with_names(part) for name, part in value.items()}
    return [_with_names(part) for part in value] if isinstance(value, list | tuple) else value


def _shortened(headers: dict[str, Any]) -> dict[str, Any]:
    return {"x-choreo-headers": reprlib.repr(headers)}


def _writable(headers: dict[str, Any]) -> dict[str, Any]:
    if not is_too_deep(headers):
        return headers
    # Only foreign messages: the headers of choreo are flat. A replay needs the body of the message, not this header.
    return {name: reprlib.repr(value) if is_too_deep(value) else value for name, value in headers.items()}
