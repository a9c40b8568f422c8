"""Reading deliveries that may hold anything.

Any program can put any message into a queue. Celery drops some unexpected messages and ends the worker on others. So
no delivery is passed on as it came: the event is read and checked here, and Celery gets a message that is built here.
"""

import json
from collections.abc import Callable, Container
from json.encoder import encode_basestring as quoted
from reprlib import Repr
from typing import Any

import amqp
from kombu.serialization import loads

from choreo.broker.cloud_message import cloud_event_in
from choreo.broker.compression import unpacked
from choreo.declare.retry import MOST_RETRIES
from choreo.errors import EnvelopeError
from choreo.events.cloud_events import JSON
from choreo.events.envelope import Envelope
from choreo.events.lineage import NO_LINEAGE, Lineage, lineage_of
from choreo.events.message import EVENT_TASK, MOST_NESTED, Message, is_too_deep, parsed
from choreo.printing import one_line

Headers = dict[str, Any]

#: The header in which RabbitMQ's quorum queues and choreo's Redis transport count how often a delivery came back after
#: a failed delivery: its consumer died, or gave it back.
DELIVERY_COUNT = "x-delivery-count"
#: The headers that the broker adds when it delivers again. Since RabbitMQ 4.3 the second one counts every return, also
#: those that are no failed delivery.
_ADDED = frozenset({DELIVERY_COUNT, "x-acquired-count"})
#: The content type of a delivery that is no message: on Redis a text that is not in kombu's format, which is the body
#: as it was found; on RabbitMQ one whose properties have no recognisable form.
UNREADABLE = "application/x-choreo-unreadable"
#: In place of True in ``basic_reject(tag, requeue)``: the message returns to its queue, and that is no failed delivery.
#: choreo's Redis transport tells the two apart, and so do quorum queues of RabbitMQ since 4.3.
UNCOUNTED = "uncounted"

_dumps = json.JSONEncoder(ensure_ascii=False).encode
#: The text before and after an event in the body of a task message that choreo writes.
_BEFORE, _AFTER = "[[{", "}],{},{}]"

_shortener = Repr()
_shortener.maxstring = _shortener.maxother = 200
#: Shortens a value from a message for an error text: the value may be of any size.
shortened = _shortener.repr


class EventText(str):
    """An event as JSON, with its envelope. It is pickled as a plain text: another process reads the envelope again."""

    __slots__ = ("envelope", "lineage", "prepared")
    envelope: Envelope
    #: The task that announced the event.
    lineage: Lineage
    #: What the hooks of the channel that took the event have prepared for it; choreo.broker does not use it.
    prepared: Any

    @classmethod
    def of(cls, envelope: Envelope, text: str | None = None, lineage: Lineage = NO_LINEAGE) -> "EventText":
        """The text for this envelope. Raises `EnvelopeError` when the envelope cannot be written as JSON."""
        try:
            made = cls(_dumps(envelope.to_wire()) if text is None else text)
            made.encode()  # raises for half a surrogate pair, which is no UTF-8
        except (ValueError, RecursionError) as error:
            raise EnvelopeError(f"it cannot be written again: {error}") from error
        made.envelope, made.lineage, made.prepared = envelope, lineage, None
        return made

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def plain_event(text: bytes) -> EventText | None:
    """
    Fast path: the event in the text of a message, if choreo wrote the message and it was not delivered before.

    None in every other case, and for every error: `Incoming` then reads the message, and names the fault.
    """
    try:
        message = parsed(text.decode())
        body, headers, properties = message["body"], message["headers"], message["properties"]
        is_plain = (
            b'"__type__"' not in text
            and headers["task"] == EVENT_TASK
            and headers["retries"] == 0
            and not headers.get("compression")
            and properties["body_encoding"] == "utf-8"
            and type(properties["delivery_info"]) is dict
            and "redelivered" not in properties["delivery_info"]
            and message["content-type"] == JSON
        )
        return own_event(body, lineage_of(headers)) if is_plain else None
    except Exception:  # `Incoming` will find the same fault, and report it
        return None


def own_event(body: str, lineage: Lineage) -> EventText | None:
    """
    Fast path: the event in the body of a message that choreo wrote.

    None if the body has another form. Raises one of Python's errors, or an `EnvelopeError`, if it holds no event.
    """
    event = None if _has_many_brackets(body) else _own_text(body)
    if event is None:
        return None
    wire = parsed(event)
    # Without a time, a process that reads the text again would find another one.
    return EventText.of(Envelope.from_wire(wire), event, lineage) if wire.get("time") else None


def source_of(message: Any) -> str:
    """
    The queue that a message was taken from.

    choreo's Redis transport notes it. Elsewhere it is the message's routing key, which is the name of its queue unless
    the message came through an exchange.
    """
    return getattr(message, "choreo_queue", "") or str((message.delivery_info or {}).get("routing_key"))


def returns_of(message: Any) -> int:
    """How often the delivery came back after a failed attempt, as far as the broker counts that."""
    headers = message.properties.get("application_headers") if isinstance(message, amqp.Message) else message.headers
    count = headers.get(DELIVERY_COUNT) if type(headers) is dict else None
    return count if type(count) is int else 0


class Incoming:
    """A delivery by py-amqp (RabbitMQ) or by one of kombu's virtual transports (Redis, memory)."""

    def __init__(self, message: Any) -> None:
        self.message = message
        # py-amqp keeps headers and content type in the properties; kombu's messages have them as attributes.
        self._is_amqp = isinstance(message, amqp.Message)

    @property
    def headers(self) -> Headers:
        """The headers, {} if there are none. Raises `EnvelopeError` when they are no table."""
        headers = self._headers()
        if headers is None:
            return {}
        if not isinstance(headers, dict):
            raise EnvelopeError(f"the headers are {type(headers).__name__}, not a table")
        return headers

    @property
    def content_type(self) -> Any:
        """The content type, as the sender wrote it: it may be of any Python type."""
        return self._property("content_type")

    def event(self, *tasks: str, known_as: Callable[[Envelope], Envelope] = lambda it: it) -> tuple[EventText, int]:
        """
        The event, and how many attempts were made before.

        ``tasks`` are task names that are allowed beside `EVENT_TASK`. ``known_as`` is a callback: it gets the event of
        a program that sends plain CloudEvents, and returns it under the type that the handler knows. Raises
        `EnvelopeError` when there is no event.
        """
        headers = self.headers
        if headers.get("task") not in (EVENT_TASK, *tasks):
            return EventText.of(known_as(self._cloud_event())), 0
        retries = retries_in(headers)
        match self.body():
            case [[wire], dict(kwargs), dict(embed)] if not kwargs and not any(embed.values()):
                wire = _parsed(wire) if isinstance(wire, str) else wire
                if self._may_be_deep() and is_too_deep(wire):
                    raise EnvelopeError(f"its data is nested more than {MOST_NESTED} times")
                envelope = Envelope.from_wire(wire)
                # Without a time, a process that reads the text again would find another one.
                is_whole = wire.get("time") is not None
                return EventText.of(envelope, self._text_of_event() if is_whole else None), retries
        raise EnvelopeError("the body is not a task message whose one argument is an event")

    def _cloud_event(self) -> Envelope:
        """The event of another program. Raises `EnvelopeError` if the message is none."""
        headers = self.headers
        wire = cloud_event_in(self.content_type, headers, self.plain()) if "task" not in headers else None
        if wire is None:
            raise EnvelopeError(
                f"the task is {shortened(headers.get('task'))}, and this queue takes events ({EVENT_TASK!r})"
            )
        envelope = Envelope.from_wire(wire)
        if is_too_deep(envelope.data):
            raise EnvelopeError(f"its data is nested more than {MOST_NESTED} times")
        return envelope

    def _may_be_deep(self) -> bool:
        """True if the body has more brackets than `MOST_NESTED`, so that its depth must be measured."""
        # Brackets cannot be counted in a compressed body. A backslash may escape one, so it counts as one.
        if self._is_amqp and self.headers.get("compression"):
            return True
        body = self.message.body
        if isinstance(body, bytes):
            return bool(body.count(b"[") + body.count(b"{") + body.count(b"\\") > MOST_NESTED)
        return _has_many_brackets(body)

    def _text_of_event(self) -> str | None:
        """The event's own text, if choreo wrote it; None if the text must be made from the envelope."""
        body = self.message.body
        if isinstance(body, bytes):
            body = body.decode(errors="replace")
        return _own_text(body)

    def body(self) -> Any:
        """The decoded body. Raises `EnvelopeError` when it is not JSON."""
        content_type = self.content_type
        if content_type != JSON:
            raise EnvelopeError(f"the content type is {shortened(content_type)}, not {JSON!r}")
        return _parsed(self.plain())

    def decoded(self, accept: Container[str]) -> Any:
        """The body as Celery will decode it. Raises `EnvelopeError` if Celery would refuse or could not read it."""
        content_type = self.content_type
        if not isinstance(content_type, str) or content_type not in accept:
            raise EnvelopeError(f"the content type {shortened(content_type)} is none that the service takes")
        plain = self.plain()
        try:
            # Kombu turns JSON objects that look like its typed values into such values. If that fails, Celery drops
            # the message.
            return loads(plain, content_type, self._property("content_encoding"), accept=accept)
        except Exception as error:  # a decoder may raise anything
            raise EnvelopeError(f"the body cannot be read: {short(error)}") from error

    def plain(self) -> Any:
        """The body as bytes or a text, decompressed. Raises `EnvelopeError` if that fails."""
        if getattr(self.message, "errors", None):
            raise EnvelopeError(f"the body cannot be decompressed: {self.message.errors[0][1]}")
        body = self.message.body
        if not (self._is_amqp and self.headers.get("compression")):
            return body
        try:
            return unpacked(body, self.headers["compression"])
        except Exception as error:  # a decoder may raise anything
            raise EnvelopeError(f"the body cannot be decompressed: {short(error)}") from error

    def become(self, headers: Headers, argument: str, delivery_info: dict[str, Any]) -> None:
        """
        Replace headers and body of this delivery: the task's one argument is the text ``argument``.

        Raises `EnvelopeError` when the text cannot be written as UTF-8.
        """
        try:
            self.message.body = f"[[{quoted(argument)}], {{}}, {{}}]".encode()
        except ValueError as error:
            raise EnvelopeError(f"it cannot be written again: {error}") from error
        self.message.delivery_info = {**self.message.delivery_info, **delivery_info}
        if self._is_amqp:
            self.message.properties.update(application_headers=headers, content_type=JSON, content_encoding="utf-8")
            self.message.choreo_decoded = [[argument], {}, {}]
        else:
            self.message.headers = headers
            self.message.content_type, self.message.content_encoding = JSON, "utf-8"
            # The decoded arguments, so that Celery need not parse the body.
            self.message._decoded_cache = [[argument], {}, {}]

    def raw(self, queue: str) -> Message:
        """
        The delivery byte for byte, addressed so that a replay brings it to ``queue`` again.

        Its returns are counted anew after a replay.
        """
        headers, body = self._headers(), self.message.body
        if isinstance(headers, dict):
            headers = {name: value for name, value in headers.items() if name not in _ADDED}
        return Message(
            exchange="",
            routing_key=queue,
            body=body if isinstance(body, bytes) else str(body or "").encode(errors="surrogatepass"),
            headers=headers if isinstance(headers, dict) else {},
            content_type=_text(self._property("content_type")),
            content_encoding=_text(self._property("content_encoding")),
        )

    def _headers(self) -> Any:
        return self.message.properties.get("application_headers") if self._is_amqp else self.message.headers

    def _property(self, name: str) -> Any:
        return self.message.properties.get(name) if self._is_amqp else getattr(self.message, name, None)


def retries_in(headers: Headers) -> int:
    """How many attempts were made before. Raises `EnvelopeError` if the header is no such number."""
    retries = headers.get("retries") or 0
    if type(retries) is not int or not 0 <= retries <= MOST_RETRIES:
        raise EnvelopeError(f"retries is {shortened(retries)}, not a number of attempts")
    return retries


def _own_text(body: str) -> str | None:
    # An escape may stand for half a surrogate pair, which cannot be written as UTF-8.
    if body.startswith(_BEFORE) and body.endswith(_AFTER) and "\\u" not in body:
        return str(body[len(_BEFORE) - 1 : 1 - len(_AFTER)])
    return None


def _has_many_brackets(body: str) -> bool:
    return bool(body.count("[") + body.count("{") + body.count("\\") > MOST_NESTED)


def _parsed(text: Any) -> Any:
    try:
        return parsed(text)
    except Exception as error:  # a parser may raise anything
        raise EnvelopeError(f"the body is not JSON: {short(error)}") from error


def _text(value: Any) -> str:
    """A property as a text for people, shortened if it is no text."""
    return value if isinstance(value, str) else shortened(value)


def short(error: Exception) -> str:
    """The error in one line of at most 203 characters."""
    text = one_line(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
