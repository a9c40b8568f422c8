"""
Reading what py-amqp cannot: the properties and addresses of foreign messages.

py-amqp decodes the properties of a message while it reads frames from the socket. A header with a timestamp in
milliseconds, a text that is no UTF-8 or tables that are nested very deeply raise an error there, which ends the worker,
and then the next one that gets the message. So such a frame is replaced by one that says the same in values that
py-amqp can read. The queue then handles the message or keeps it as a dead letter, like any other.
"""

from base64 import b64encode
from collections.abc import Callable
from struct import calcsize, pack, unpack_from
from typing import Any

import amqp
from amqp.method_framing import frame_handler
from amqp.serialization import decode_properties_basic, loads
from amqp.spec import Basic
from kombu.transport import pyamqp

from choreo.broker.broadcasts import dropping
from choreo.broker.compression import errors_in
from choreo.broker.incoming import UNREADABLE
from choreo.broker.rabbitmq.transport import Buffered, buffered, writing_frames

#: The header that holds the properties of a replaced frame as they came, as base64.
PROPERTIES = "x-choreo-properties"
#: The most levels of tables and arrays in a header. Deeper ones are only in `PROPERTIES`.
MOST_NESTED = 20

_METHOD, _HEADER = 1, 2
#: A content header begins with class, weight and size of the body; the properties follow.
_PROPERTIES_AT = 12
_SHORT = 255
_FIXED = {"b": "b", "B": "B", "U": "h", "u": "H", "I": "i", "i": "I", "L": "q", "l": "q", "s": "h", "f": "f", "d": "d"}
_FIXED |= {"T": "Q", "t": "?"}

OnFrame = Callable[[tuple[int, int, bytes]], Any]


class BoundedMessage(pyamqp.Message):
    """
    Kombu's message of RabbitMQ, unpacked within bounds, as that of the Redis transport is.

    The queues of a service check their deliveries themselves. This is for all others: remote control, worker events.
    """

    def __init__(self, msg: Any, channel: Any = None, **options: Any) -> None:
        about = msg.properties
        self.errors = errors_in(msg.body, about.get("application_headers"), about.get("content_encoding"))
        super().__init__(msg, channel=channel, **options)
        # The decoded arguments, if the queue has made them: then Celery need not parse the body.
        self._decoded_cache = getattr(msg, "choreo_decoded", None)


class ReadingChannel(pyamqp.Channel):
    """
    A channel whose messages are unpacked within bounds.

    Its consumers without acks drop what they cannot read: see `choreo.broker.broadcasts`.
    """

    Message = BoundedMessage

    def basic_consume(
        self, queue: str = "", *args: Any, no_ack: bool = False, callback: Any = None, **options: Any
    ) -> Any:
        """Consume as py-amqp does."""
        if no_ack and callback is not None:
            errors = (*self.connection.connection_errors, *self.connection.channel_errors)
            callback = dropping(callback, queue, errors)
        return super().basic_consume(queue, *args, no_ack=no_ack, callback=callback, **options)


class ReadingConnection(pyamqp.Connection):
    """A connection to RabbitMQ that reads messages of any form, and reads its frames from a buffer."""

    Channel = ReadingChannel

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, frame_handler=reading_frames, frame_writer=writing_frames, **options)

    def Transport(  # noqa: N802 - py-amqp's name
        self,
        host: str,
        connect_timeout: float | None,
        ssl: Any = False,
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        socket_settings: dict[Any, Any] | None = None,
        **_: Any,
    ) -> Buffered:
        """The socket of this connection, which connects later. py-amqp drops options that it does not know."""
        return buffered(
            host,
            connect_timeout,
            ssl,
            read_timeout=read_timeout,
            write_timeout=write_timeout,
            socket_settings=socket_settings,
        )


def reading_frames(connection: Any, callback: Callable[..., Any]) -> OnFrame:
    """As py-amqp's `frame_handler`, but every content header and every address of a delivery can be read."""

    def on_method(channel: int, method: tuple[int, int], args: bytes, content: Any) -> Any:
        try:
            return callback(channel, method, args, content)
        except UnicodeDecodeError:
            if method != Basic.Deliver or _succeeds(lambda: loads("sLbss", args, 4)):
                raise  # an error of the program
            return callback(channel, method, _address(args), content)

    on_frame = frame_handler(connection, on_method)

    def read(frame: tuple[int, int, bytes]) -> Any:
        try:
            return on_frame(frame)
        except Exception:
            kind, channel, text = frame
            if kind != _HEADER or _succeeds(lambda: decode_properties_basic(text, _PROPERTIES_AT)):
                raise
        # Only the properties were not read: py-amqp still expects the header of this message.
        return on_frame((kind, channel, readable(text)))

    return read


def readable(header: bytes) -> bytes:
    """A content header with the same body size, whose properties py-amqp can read."""
    raw = b64encode(header[_PROPERTIES_AT:]).decode()
    try:
        properties = _properties(header)
        properties["application_headers"] = {**properties.get("application_headers", {}), PROPERTIES: raw}
        made = header[:_PROPERTIES_AT] + bytes(amqp.Message(**properties)._serialize_properties())
        decode_properties_basic(made, _PROPERTIES_AT)
    except Exception:  # lengths that lead out of the frame, and types that do not exist
        message = amqp.Message(content_type=UNREADABLE, application_headers={PROPERTIES: raw})
        made = header[:_PROPERTIES_AT] + bytes(message._serialize_properties())
    return made


def _properties(header: bytes) -> dict[str, Any]:
    (flags,), at = unpack_from(">H", header, _PROPERTIES_AT), _PROPERTIES_AT + 2
    found: dict[str, Any] = {}
    for place, (name, kind) in enumerate(amqp.Message.PROPERTIES):
        if not flags & (0x8000 >> place):
            continue
        if kind == "s":
            text, at = _short(header, at)
            found[name] = _cut(text)
        elif kind == "F":
            found[name], at = _item(b"F" + header[at:], 0, 0)[0], at + 4 + unpack_from(">I", header, at)[0]
        else:
            form = {"o": ">B", "L": ">Q"}[kind]
            (found[name],), at = unpack_from(form, header, at), at + calcsize(form)
    return found


def _item(text: bytes, at: int, depth: int) -> tuple[Any, int]:
    """One value of a table or array, in a type that can be written again, and the place behind it."""
    kind, at = chr(text[at]), at + 1
    if kind in _FIXED:
        form = f">{_FIXED[kind]}"
        (value,) = unpack_from(form, text, at)
        too_large = isinstance(value, int) and not -(2**63) <= value < 2**63
        return str(value) if too_large else value, at + calcsize(form)
    if kind == "D":
        places, value = unpack_from(">Bi", text, at)
        return f"{value}e-{places}", at + 5
    if kind == "V":
        return None, at
    if kind not in "SxFA":
        raise ValueError(f"no type of a value: {kind!r}")
    (length,), at = unpack_from(">I", text, at), at + 4
    part, end = text[at : at + length], at + length
    if kind in "Sx":
        return _text(part), end
    if depth == MOST_NESTED:
        return f"(nested more than {MOST_NESTED} times)", end
    return (_table if kind == "F" else _array)(part, depth + 1), end


def _table(text: bytes, depth: int) -> dict[str, Any]:
    at, found = 0, {}
    while at < len(text):
        name, at = _short(text, at)
        found[_cut(name)], at = _item(text, at, depth)
    return found


def _array(text: bytes, depth: int) -> list[Any]:
    at, found = 0, []
    while at < len(text):
        value, at = _item(text, at, depth)
        found.append(value)
    return found


def _short(text: bytes, at: int) -> tuple[str, int]:
    length = text[at]
    return _text(text[at + 1 : at + 1 + length]), at + 1 + length


def _text(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def _cut(text: str) -> str:
    """The text in at most 255 bytes, which is what a short text may have."""
    return text.encode()[:_SHORT].decode(errors="ignore")


def _address(args: bytes) -> bytes:
    """The arguments of basic.deliver, with consumer tag, exchange and routing key as UTF-8."""
    tag, at = _short(args, 4)
    number, at = args[at : at + 9], at + 9
    exchange, at = _short(args, at)
    routing_key, _ = _short(args, at)
    short = [pack("B", len(text)) + text for text in (_cut(part).encode() for part in (tag, exchange, routing_key))]
    return args[:4] + short[0] + number + short[1] + short[2]


def _succeeds(read: Callable[[], object]) -> bool:
    try:
        read()
    except Exception:
        return False
    return True
