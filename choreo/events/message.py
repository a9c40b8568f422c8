"""A broker message, ready to be sent: what the schedule keeps and the publisher sends."""

import json
import reprlib
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from choreo.events.envelope import Envelope

#: The task name of every announced event. Which handler it is for, the queue that holds the copy knows.
EVENT_TASK = "choreo.event"
#: How deeply the data of an event may be nested. Python reads and writes JSON recursively, and how deep it can go
#: depends on where it is: what one place can still read, another one could not write again.
MOST_NESTED = 100
JSON = "application/json"

#: JSON without a byte too many. `json.dumps` makes an encoder for each call.
compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def parsed(text: str | bytes) -> Any:
    """What ``json.loads`` makes of a text, in half the time. Raises what that raises."""
    try:
        return from_json(text)
    except (ValueError, TypeError):
        # Half a surrogate pair, or nesting beyond 200: JSON all the same. Or an error that people know.
        return json.loads(text)


def is_too_deep(value: Any, most: int = MOST_NESTED) -> bool:
    """Whether lists and objects are nested in each other more than ``most`` times."""
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
    """Where to (``exchange`` '' addresses the queue named by ``routing_key``), headers and body."""

    exchange: str
    routing_key: str
    body: bytes
    headers: dict[str, Any] = field(default_factory=dict)
    content_type: str = JSON
    content_encoding: str = "utf-8"

    @classmethod
    def carrying(cls, envelope: Envelope, *, exchange: str, routing_key: str, retries: int = 0) -> "Message":
        """An ordinary Celery task message (protocol 2) with this envelope as its only argument."""
        headers = task_headers(
            EVENT_TASK,
            envelope.id,
            root_id=envelope.correlation_id,
            parent_id=envelope.causation_id,
            argsrepr=str(envelope),
            origin=envelope.source,
            retries=retries,
        )
        body = compact([[envelope.to_wire()], {}, {}]).encode()
        return cls(exchange, routing_key, body, headers)

    def to_json(self) -> str:
        """The message as text. A header that is nested beyond reading comes back as a few words about it."""
        try:
            body, encoded = self.body.decode(), False
        except UnicodeDecodeError:
            body, encoded = b64encode(self.body).decode(), True
        record = {
            "exchange": self.exchange,
            "routing_key": self.routing_key,
            "headers": _writable(self.headers),
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
            "base64": encoded,
            "body": body,
        }
        # A header of a foreign message can hold what JSON cannot (a timestamp in an AMQP table).
        return json.dumps(record, separators=(",", ":"), default=str)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Message":
        record = json.loads(text)
        encoded, body = record.pop("base64"), record.pop("body")
        return cls(body=b64decode(body) if encoded else body.encode(), **record)


def _writable(headers: dict[str, Any]) -> dict[str, Any]:
    if not is_too_deep(headers):
        return headers
    # Only a stranger's: choreo's own are flat. Whoever replays the message does so for its body.
    return {name: reprlib.repr(value) if is_too_deep(value) else value for name, value in headers.items()}
