"""Reading a message that choreo has written, straight from its frames.

py-amqp decodes the properties of a message value by value, and that takes longer than all else at a delivery. An event
that choreo announces always has the same properties in the same order: only five texts differ. So the bytes between
those texts are compared, and nothing is decoded but the two ids that are needed. Any other message is left to py-amqp.
"""

from struct import Struct

import amqp

from choreo.broker.incoming import EventText, own_event
from choreo.events.cloud_events import JSON
from choreo.events.lineage import NO_LINEAGE, Lineage, lineage_of
from choreo.events.message import EVENT_TASK, task_headers

#: The parts of a content header before its properties: class, weight, and the size of the body.
PROPERTIES_AT = 12

_length = Struct(">I").unpack_from
_TEXT, _NONE = ord("S"), ord("V")


def _pieces() -> tuple[bytes, ...]:
    """The bytes of the properties around the texts that differ, as py-amqp writes them for `choreo.events.message`."""
    names = "id", "root", "parent", "args", "origin"
    ident, root, parent, args, origin = (f"<{name}>" for name in names)
    headers = task_headers(EVENT_TASK, ident, root_id=root, parent_id=parent, argsrepr=args, origin=origin)
    message = amqp.Message(content_type=JSON, content_encoding="utf-8", application_headers=headers, delivery_mode=2)
    rest, found = bytes(message._serialize_properties()), []
    for name in names:
        written = f"<{name}>".encode()
        before, rest = rest.split(b"S" + len(written).to_bytes(4) + written)
        found.append(before)
    return (*found, rest)


_BEFORE_ID, _BEFORE_ROOT, _BEFORE_PARENT, _BEFORE_ARGS, _BEFORE_ORIGIN, _END = _pieces()
#: The bytes before the length of the table of headers, and those behind it.
_PLACE = _BEFORE_ID.index(b"\x04lang")
_START, _BEFORE_ID = _BEFORE_ID[: _PLACE - 4], _BEFORE_ID[_PLACE:]


def own_event_in(header: bytes, body: bytes) -> EventText | None:
    """
    The event of a message that choreo wrote and that was not delivered before. None for any other.

    ``header`` is the payload of the message's content header frame.
    """
    try:
        lineage = _lineage_in(header)
        return None if lineage is None else own_event(body.decode(), lineage)
    except Exception:  # `Incoming` will find the same fault, and report it
        return None


def _lineage_in(header: bytes) -> Lineage | None:
    """The lineage in the properties of a message that choreo wrote; None for other properties. May raise any error."""
    at = PROPERTIES_AT + len(_START)
    if header[PROPERTIES_AT:at] != _START:
        return None
    # Behind the table is one byte: the delivery mode.
    if _length(header, at)[0] != len(header) - at - 5:
        return None
    at += 4
    end = at + len(_BEFORE_ID)
    if header[at:end] != _BEFORE_ID or header[end] != _TEXT:
        return None
    at = end + 5 + _length(header, end + 1)[0]
    end = at + len(_BEFORE_ROOT)
    if header[at:end] != _BEFORE_ROOT:
        return None
    root, at = _text_at(header, end)
    end = at + len(_BEFORE_PARENT)
    if header[at:end] != _BEFORE_PARENT:
        return None
    parent, at = _text_at(header, end)
    end = at + len(_BEFORE_ARGS)
    if header[at:end] != _BEFORE_ARGS or header[end] != _TEXT:
        return None
    at = end + 5 + _length(header, end + 1)[0]
    end = at + len(_BEFORE_ORIGIN)
    if header[at:end] != _BEFORE_ORIGIN or header[end] != _TEXT:
        return None
    at = end + 5 + _length(header, end + 1)[0]
    if header[at:] != _END:
        return None
    return NO_LINEAGE if root is parent is None else lineage_of({"root_id": root, "parent_id": parent})


def _text_at(header: bytes, at: int) -> tuple[str | None, int]:
    """The text or None at this place, and the place behind it. Raises `ValueError` for any other value."""
    kind = header[at]
    if kind == _NONE:
        return None, at + 1
    if kind != _TEXT:
        raise ValueError(f"a header is no text: {kind}")
    start = at + 5
    end = start + _length(header, at + 1)[0]
    return header[start:end].decode(), end
