"""Taking a whole delivery from a buffer of frames at once, if one of our consumers is to get it."""

from collections.abc import Mapping
from struct import Struct

from choreo.broker.rabbitmq.taken import Taken
from choreo.broker.rabbitmq.transport import FRAME_END, FRAME_OVERHEAD, frame_head

#: The first bytes of the payload of a ``basic.deliver``.
DELIVER = b"\x00\x3c\x00\x3c"
#: What `delivery_at` returns for a delivery that is left to py-amqp, and for one whose end has not arrived yet.
LEFT, UNFINISHED = 0, -1

_METHOD, _HEADER, _BODY = 1, 2, 3
_PAYLOAD = FRAME_OVERHEAD - 1
_number_and_flag = Struct(">QB").unpack_from
_size = Struct(">Q").unpack_from


def delivery_at(buffer: bytes, at: int, queues: Mapping[bytes, str]) -> tuple[Taken | None, int]:
    """
    The delivery whose method frame begins at this place, and the place behind its last frame.

    ``queues``: consumer tag → queue, for the consumers whose deliveries are taken. None and `LEFT` for any other
    delivery, for a body of several frames, and for frames that do not follow each other. None and `UNFINISHED` if more
    must be read. The method frame must be whole.
    """
    start = at + _PAYLOAD
    _, channel, size = frame_head(buffer, at)
    end = start + size
    behind_tag = start + 5 + buffer[start + 4]
    queue = queues.get(buffer[start + 5 : behind_tag])
    if queue is None:
        return None, LEFT
    there = len(buffer)
    if there < end + 1 + FRAME_OVERHEAD:
        return None, UNFINISHED
    kind, number, size = frame_head(buffer, end + 1)
    header = end + 1 + _PAYLOAD
    header_end = header + size
    if kind != _HEADER or number != channel:
        return None, LEFT
    if there < header_end + 1:
        return None, UNFINISHED
    (body_size,) = _size(buffer, header + 4)
    body, last = b"", header_end
    if body_size:
        if there < header_end + 1 + FRAME_OVERHEAD:
            return None, UNFINISHED
        kind, number, size = frame_head(buffer, header_end + 1)
        if kind != _BODY or number != channel or size != body_size:
            return None, LEFT
        begin = header_end + 1 + _PAYLOAD
        last = begin + size
        if there < last + 1:
            return None, UNFINISHED
        body = buffer[begin:last]
    if not buffer[end] == buffer[header_end] == buffer[last] == FRAME_END:
        return None, LEFT
    tag, flag = _number_and_flag(buffer, behind_tag)
    consumer = buffer[start + 5 : behind_tag].decode()
    frames = buffer[start:end], buffer[header:header_end], body
    return Taken(queue, tag, consumer, frames, redelivered=bool(flag & 1)), last + 1
