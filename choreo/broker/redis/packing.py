"""
A message as JSON text: packed once for all its copies, read forgivingly, marked when it comes back.

The text is kombu's own format, so stock kombu reads what we write and the other way round.
Text bodies travel as text; only other bytes are wrapped in base64. Both are read.
A message that cannot be read is not an error here: it is delivered as bytes with the content type `UNREADABLE`,
so that whoever consumes the queue can park it with its raw bytes.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

from kombu.utils.json import JSONEncoder
from kombu.utils.json import loads as kombu_loads

from choreo.events.message import Message, parsed

#: Content type of a delivery whose text is no message of kombu's format. The body is the text as it was found.
UNREADABLE = "application/x-choreo-unreadable"

#: Header that counts how often a message was delivered and came back: its consumer died, or it was requeued.
DELIVERY_COUNT = "x-delivery-count"

dumps = JSONEncoder().encode  # json.dumps(cls=...) builds an encoder for each call


def encode_body(body: Any, headers: Mapping[str, Any] | None) -> tuple[Any, str]:
    """The body as a JSON string can carry it, and the name of its encoding."""
    if not isinstance(body, bytes):
        return body, "utf-8"
    # A reader decompresses before it encodes text again, so compressed bytes must stay bytes.
    if not (headers and headers.get("compression")):
        try:
            return body.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode("ascii"), "base64"


def head_of_copies(message: Mapping[str, Any]) -> str:
    """The text of a message up to the queue's name and the tag, which differ from copy to copy."""
    properties = dict(message["properties"])
    del properties["delivery_tag"]
    info = {**properties.pop("delivery_info"), "exchange": ""}
    info.pop("routing_key", None)
    text = dumps({**{key: part for key, part in message.items() if key != "properties"}, "properties": properties})
    # The text ends with the two braces of the properties and the message.
    return f'{text[:-2]}, "delivery_info": {dumps(info)[:-1]}, "routing_key": '


def head_of_event(message: Message) -> str:
    """The same of a message of choreo's own, in a third of the time."""
    body, encoding = encode_body(message.body, message.headers)
    return (
        f'{{"body": {dumps(body)}, "content-encoding": {dumps(message.content_encoding)}, '
        f'"content-type": {dumps(message.content_type)}, "headers": {dumps(message.headers)}, '
        f'"properties": {{"delivery_mode": 2, "priority": 0, "body_encoding": "{encoding}", '
        f'"delivery_info": {{"exchange": "", "routing_key": '
    )


def tail_of_copy(queue: str, tag: str) -> str:
    """What follows upon the head in the copy for this queue. The scripts that make several copies write it as well."""
    return f'{dumps(queue)}}}, "delivery_tag": "{tag}"}}}}'


def unpack(text: bytes) -> dict[str, Any]:
    """The message in a text; for a text that holds none, a message that says so."""
    try:
        return _read(text)
    except Exception:  # what Kombu's typed values raise is up to their types; decimal has errors of its own
        return {
            "body": text,
            "content-type": UNREADABLE,
            "content-encoding": "binary",
            "headers": {},
            "properties": {"body_encoding": "utf-8", "delivery_info": {"exchange": "", "routing_key": ""}},
        }


def _read(text: bytes) -> dict[str, Any]:
    string = text.decode("utf-8")
    # Kombu's hook is called for each JSON object; only a text that has a typed value in it needs that.
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
    The text of a message that comes back after it was delivered.

    `properties.delivery_info.redelivered` is true from then on.
    `headers["x-delivery-count"]` grows by one if the delivery counts as a failed attempt.
    A text that cannot be read comes back as it is: "" stands for that.
    """
    try:
        message = json.loads(text)
        message["properties"].setdefault("delivery_info", {})["redelivered"] = True
        if counted:
            headers = message["headers"] = message.get("headers") or {}
            count = headers.get(DELIVERY_COUNT)
            headers[DELIVERY_COUNT] = (count if type(count) is int else 0) + 1
        return json.dumps(message)
    except Exception:  # whoever gives back the messages of the dead must not die of one of them
        return ""
