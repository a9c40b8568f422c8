"""
Messages as JSON text: written once for all copies, read back, and marked when they are returned.

The text is in kombu's own format: stock kombu reads messages of choreo, and choreo reads messages of stock kombu.
A body that is a text travels as text; other bytes are wrapped in base64. Both forms are read.
A text that cannot be read is no error here. It is delivered as bytes with the content type `UNREADABLE`, so that the
consumer can keep it as a dead letter, byte for byte.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

from kombu.utils.json import JSONEncoder
from kombu.utils.json import loads as kombu_loads

from choreo.broker.incoming import DELIVERY_COUNT, UNREADABLE
from choreo.events.message import Message, parsed

dumps = JSONEncoder().encode  # json.dumps(cls=...) would build an encoder for each call


def encode_body(body: Any, headers: Mapping[str, Any] | None) -> tuple[Any, str]:
    """The body in a form that a JSON string can hold, and the name of its encoding."""
    if not isinstance(body, bytes):
        return body, "utf-8"
    # Kombu decompresses a body before it encodes a text, so a compressed body must arrive as bytes, even if it happens
    # to be valid UTF-8.
    if not (headers and headers.get("compression")):
        try:
            return body.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode("ascii"), "base64"


def head_of_copies(message: Mapping[str, Any]) -> str:
    """The text of a message up to the queue's name and the tag: this part is the same in all copies."""
    properties = dict(message["properties"])
    del properties["delivery_tag"]
    info = {**properties.pop("delivery_info"), "exchange": ""}
    info.pop("routing_key", None)
    text = dumps({**{key: part for key, part in message.items() if key != "properties"}, "properties": properties})
    # The text ends with the two braces of the properties and the message.
    return f'{text[:-2]}, "delivery_info": {dumps(info)[:-1]}, "routing_key": '


def head_of_event(message: Message) -> str:
    """The same as `head_of_copies` for a message that choreo wrote, in a third of the time."""
    body, encoding = encode_body(message.body, message.headers)
    return (
        f'{{"body": {dumps(body)}, "content-encoding": {dumps(message.content_encoding)}, '
        f'"content-type": {dumps(message.content_type)}, "headers": {dumps(message.headers)}, '
        f'"properties": {{"delivery_mode": 2, "priority": 0, "body_encoding": "{encoding}", '
        f'"delivery_info": {{"exchange": "", "routing_key": '
    )


def tail_of_copy(queue: str, tag: str) -> str:
    """The text after the head in the copy for this queue. The scripts that make several copies write the same."""
    return f'{dumps(queue)}}}, "delivery_tag": "{tag}"}}}}'


def unpack(text: bytes) -> dict[str, Any]:
    """The message in a text. If it cannot be read, its body is the text, and its content type is `UNREADABLE`."""
    try:
        return _read(text)
    except Exception:  # kombu's typed values may raise anything; decimal has errors of its own
        return {
            "body": text,
            "content-type": UNREADABLE,
            "content-encoding": "binary",
            "headers": {},
            "properties": {"body_encoding": "utf-8", "delivery_info": {"exchange": "", "routing_key": ""}},
        }


def _read(text: bytes) -> dict[str, Any]:
    string = text.decode("utf-8")
    # Kombu's loader calls a hook for each JSON object. Only a text with a typed value needs it.
    message: dict[str, Any] = kombu_loads(string) if '"__type__"' in string else parsed(string)
    properties = message["properties"]
    if not isinstance(message.get("headers") or {}, dict):
        raise ValueError("headers are no object")
    if not isinstance(properties.setdefault("delivery_info", {}), dict):
        raise ValueError("delivery_info is no object")
    encoding, body = properties.get("body_encoding"), message.get("body")
    if body and encoding and encoding.lower() != "utf-8":
        if encoding != "base64":
            raise ValueError(f"unknown body encoding {encoding!r}")
        message["body"] = base64.b64decode(body, validate=True)
        properties["body_encoding"] = "utf-8"
    elif body is not None and not isinstance(body, str):
        raise ValueError("body is no text")
    return message


def redelivered(text: bytes, *, counted: bool) -> str:
    """
    The text of a message that returns to its queue after a delivery.

    `properties.delivery_info.redelivered` is set to true.
    `headers["x-delivery-count"]` grows by one if the delivery counts as a failed delivery.
    A text that cannot be read returns as it is: the answer is then "", which give_back.lua takes for "unchanged".
    """
    try:
        message = json.loads(text)
        message["properties"].setdefault("delivery_info", {})["redelivered"] = True
        if counted:
            headers = message["headers"] = message.get("headers") or {}
            count = headers.get(DELIVERY_COUNT)
            headers[DELIVERY_COUNT] = (count if type(count) is int and count > 0 else 0) + 1
        return json.dumps(message)
    except Exception:  # one unreadable message must not keep the others from returning
        return ""
