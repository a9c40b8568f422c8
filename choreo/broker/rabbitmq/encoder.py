"""The frames of basic.publish, for the messages of choreo: the bytes that py-amqp writes, in a sixth of the time.

A message is a method frame, a content header and its body, which is cut where the broker's ``frame_max`` says. py-amqp
encodes any method and any property, item by item. An `Encoder` knows one method and four properties. For all else
`Encoder.frames` answers None, and the caller leaves the message to py-amqp: a header of another type, a name of more
than 255 bytes, a text with half a surrogate pair, a table that does not fit into a frame.

Format: AMQP 0-9-1, sections 2.3 and 4.2, with RabbitMQ's types of values in a table
(https://www.rabbitmq.com/amqp-0-9-1-errata#section_3).
"""

from collections.abc import Callable
from struct import Struct
from typing import Any

from choreo.broker.rabbitmq.transport import FRAME_END, FRAME_OVERHEAD

_METHOD, _HEADER, _BODY = 1, 2, 3
_BASIC, _PUBLISH = 60, 40
_MANDATORY = 1
#: Flags of a content header: content type, content encoding, headers, delivery mode.
_HAS_TYPES, _HAS_HEADERS, _HAS_MODE = 0x8000 | 0x4000, 0x2000, 0x1000
_PERSISTENT = b"\x02"
_SHORT = 255
#: py-amqp writes an integer in 4 bytes if it is in this range, else in 8.
_SMALL = range(-(2**31) + 1, 2**31)
_LARGE = range(-(2**63), 2**63)
#: The most names, addresses or types that are remembered. A program with more, which would be strange, encodes them
#: again.
_MOST = 1000

_frame = Struct(">BHI").pack
_content = Struct(">HHQH").pack
_method = Struct(">HHH").pack
_long = Struct(">I").pack
_small = Struct(">i").pack
_large = Struct(">q").pack
_double = Struct(">d").pack
_END = bytes([FRAME_END])


class _UnfitError(ValueError):
    """The value is left to py-amqp."""


class Encoder:
    """Encodes messages for one channel of a connection whose frames have ``frame_max`` bytes at most."""

    def __init__(self, channel: int, frame_max: int) -> None:
        self._channel = channel
        #: The most bytes of a payload.
        self._room = frame_max - FRAME_OVERHEAD
        self._methods: dict[tuple[str, str, bool], bytes] = {}
        self._types: dict[tuple[str, str], bytes] = {}

    def frames(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        headers: dict[str, Any] | None,
        content_type: str,
        content_encoding: str,
        *,
        mandatory: bool,
    ) -> bytes | None:
        """All frames of a persistent message, or None if py-amqp must write it."""
        try:
            method = self._methods.get((exchange, routing_key, mandatory)) or self._new_method(
                exchange, routing_key, mandatory
            )
            types = self._types.get((content_type, content_encoding)) or self._new_types(content_type, content_encoding)
            if headers is None:
                about = _content(_BASIC, 0, len(body), _HAS_TYPES | _HAS_MODE) + types + _PERSISTENT
            else:
                table = _table(headers)
                flags = _HAS_TYPES | _HAS_HEADERS | _HAS_MODE
                about = b"".join((_content(_BASIC, 0, len(body), flags), types, _long(len(table)), table, _PERSISTENT))
        except (_UnfitError, UnicodeEncodeError, TypeError):
            return None
        if type(body) is not bytes or len(about) > self._room:
            return None
        size, channel = len(body), self._channel
        head = method + _frame(_HEADER, channel, len(about)) + about
        if size == 0:
            return head + _END
        if size <= self._room:
            return b"".join((head, _END, _frame(_BODY, channel, size), body, _END))
        return head + _END + self._cut(body)

    def _cut(self, body: bytes) -> bytes:
        parts = [body[at : at + self._room] for at in range(0, len(body), self._room)]
        return b"".join([_frame(_BODY, self._channel, len(part)) + part + _END for part in parts])

    def _new_method(self, exchange: str, routing_key: str, mandatory: bool) -> bytes:
        payload = (
            _method(_BASIC, _PUBLISH, 0)
            + _short(exchange)
            + _short(routing_key)
            + bytes([_MANDATORY if mandatory else 0])
        )
        made = _frame(_METHOD, self._channel, len(payload)) + payload + _END
        return _remember(self._methods, (exchange, routing_key, mandatory), made)

    def _new_types(self, content_type: str, content_encoding: str) -> bytes:
        return _remember(self._types, (content_type, content_encoding), _short(content_type) + _short(content_encoding))


#: The name of a header → its bytes in a table, up to the type of the value. All encoders share them.
_names: dict[str, bytes] = {}


def _table(headers: dict[str, Any]) -> bytes:
    """The rows of a table. Raises `_UnfitError`, or a `UnicodeEncodeError`."""
    parts: list[bytes] = []
    add, names = parts.append, _names
    for name, value in headers.items():
        add(names.get(name) or _remember(names, name, _short(name)))
        if type(value) is str:
            text = value.encode()
            add(b"S")
            add(_long(len(text)))
            add(text)
        elif value is None:
            add(b"V")
        else:
            add(_item(value))
    return b"".join(parts)


def _item(value: Any) -> bytes:
    """A value in a table or array, with its type. Lists may hold texts and numbers, and no lists."""
    write = _ITEMS.get(type(value))
    if write is None:
        raise _UnfitError
    return write(value)


def _text(value: str) -> bytes:
    text = value.encode()
    return b"S" + _long(len(text)) + text


def _number(value: int) -> bytes:
    if value in _SMALL:
        return b"I" + _small(value)
    if value in _LARGE:
        # RabbitMQ writes `l` for it; py-amqp reads both.
        return b"L" + _large(value)
    raise _UnfitError


def _array(values: list[Any]) -> bytes:
    if any(type(value) is list for value in values):
        raise _UnfitError
    items = b"".join(map(_item, values))
    return b"A" + _long(len(items)) + items


_ITEMS: dict[type, Callable[[Any], bytes]] = {
    str: _text,
    type(None): lambda _: b"V",
    bool: lambda value: b"t\x01" if value else b"t\x00",
    int: _number,
    float: lambda value: b"d" + _double(value),
    list: _array,
}


def _short(text: str) -> bytes:
    encoded = text.encode() if type(text) is str else b""
    if type(text) is not str or len(encoded) > _SHORT:
        raise _UnfitError
    return bytes([len(encoded)]) + encoded


def _remember(known: dict[Any, bytes], key: Any, made: bytes) -> bytes:
    if len(known) >= _MOST:
        known.clear()
    known[key] = made
    return made
