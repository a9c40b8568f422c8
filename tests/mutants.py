"""
Good messages, changed in one to three places at random: bytes, lengths, types, headers, encodings, compressions, depth,
numbers and names.

A `Mutant` is what is put into a queue of Redis, or published to one of RabbitMQ. The same seed makes the same mutants.
"""

import base64
import bz2
import json
import lzma
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import amqp

from choreo.broker.redis.packing import unpack
from tests.unit.test_reading import EVENTS, OTHERS

#: Properties that RabbitMQ passes on; it closes the connection for others.
RAW = [raw for name, raw in (EVENTS | OTHERS).items() if name not in ("unknown type", "no flags", "nonsense")]
RAW = [
    raw
    for raw in RAW
    if raw is not OTHERS["length beyond the end"] and raw is not EVENTS["more than the last timestamp"]
]

#: Values in the places of others. No time lies ahead: a call that is due in a year would be held for a year.
ODDITIES: list[Any] = [
    *[
        None,
        True,
        False,
        0,
        -1,
        1,
        3.5,
        -0.5,
        10**30,
        -(10**30),
        1e308,
        2**31,
        2**63,
        "",
        " ",
        "x",
        "é",
        "\ud800",
        "\x00",
    ],
    *[
        "[]",
        "{}",
        "[[1],{},{}]",
        "null",
        "\x1b]0;owned\x07",
        "a\nb",
        "\u202e",
        "x" * 300,
        "9" * 5000,
        [],
        {},
        [1],
        ["x"],
    ],
    *[{"a": 1}, {"": {}}, [[]], {"task": 1}, {"__type__": "decimal", "__value__": "abc"}, {"__type__": "nope"}],
    *["0001-01-01T00:00:00+14:00", "yesterday", "payment.charge", "payment.plain", "celery.starmap", "choreo.event"],
    *["application/json", "application/x-python-serialize", "application/x-yaml", "application/x-gzip", "gzip", "zlib"],
    *[
        "utf-8",
        "utf-16",
        "binary",
        "base64",
        "no-such-codec",
        "ascii",
        [None, None],
        [{}],
        [5],
        {"task": "payment.plain"},
    ],
]
NAMES = """
    task id retries timelimit compression stamps stamped_headers shadow group root_id parent_id lang origin argsrepr
    kwargsrepr ignore_result replaced_task_nesting x-first-death-queue x-death x-delivery-count callbacks errbacks chain
    chord properties headers body content-type content-encoding body_encoding delivery_info delivery_tag delivery_mode
    priority redelivered reply_to correlation_id routing_key exchange subject source type time data specversion
    dataversion causationid correlationid datacontenttype
""".split()
#: What is no message in any way.
RUBBISH = [
    b"",
    b"null",
    b"5",
    b"[]",
    b"{}",
    b'"x"',
    b"\x00",
    b"\xff\xfe\xfa",
    b"[" * 3000,
    b"\x80\x04]\x94.",
    b"{" * 200,
]
#: The properties of all good messages. They hold no mark, since dead letters do not keep them.
PROPERTIES = {"correlation_id": "c-1", "priority": 0, "delivery_mode": 2}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": lambda body: zlib.compress(body),
    "application/x-bz2": bz2.compress,
    "application/x-lzma": lzma.compress,
    "application/zlib": zlib.compress,
}


@dataclass(frozen=True)
class Good:
    """A good message: the queue that it is for, and its parts. ``mark`` is in both."""

    queue: str
    headers: dict[str, Any]
    body: Any
    mark: str


@dataclass(frozen=True)
class Mutant:
    """A changed message. On Redis ``text`` is an element of the queue's list; on RabbitMQ it is the body."""

    queue: str
    mark: str
    text: bytes
    #: On RabbitMQ: the properties, or their bytes.
    properties: dict[str, Any] | bytes | None = None

    @property
    def is_marked(self) -> bool:
        """True if the mark of the good message is still in it, so that it can be found again."""
        about = self.properties if self.properties is not None else unpack(self.text).get("headers")
        return self.mark.encode() in self.body or self.mark in str(about)

    @property
    def body(self) -> bytes:
        """The body, as a dead letter keeps it."""
        body = self.text if self.properties is not None else unpack(self.text).get("body")
        return body if isinstance(body, bytes) else str(body or "").encode(errors="surrogatepass")


def mutants(goods: Iterator[Good], broker: str, dice: random.Random) -> Iterator[Mutant]:
    """Make one mutant of each good message."""
    make = _in_redis if broker == "redis" else _in_rabbitmq
    return (make(good, dice) for good in goods)


def _in_redis(good: Good, dice: random.Random) -> Mutant:
    headers, body, encoding = _parts(good, dice)
    message = {
        "body": base64.b64encode(body).decode() if encoding == "base64" else body.decode(errors="replace"),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": PROPERTIES
        | {"body_encoding": encoding, "delivery_tag": "t-1"}
        | {"delivery_info": {"exchange": "", "routing_key": good.queue}},
    }
    if dice.random() < 0.4:
        message = _changed(message, dice)
    text = _written(message)
    if dice.random() < 0.3:
        text = _scrambled(text, dice)
    return Mutant(good.queue, good.mark, dice.choice(RUBBISH) if dice.random() < 0.02 else text)


def _in_rabbitmq(good: Good, dice: random.Random) -> Mutant:
    headers, body, _ = _parts(good, dice)
    if dice.random() < 0.1:
        return Mutant(good.queue, good.mark, body, dice.choice(RAW))
    properties = PROPERTIES | {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "application_headers": headers,
    }
    if dice.random() < 0.3:
        properties = _changed(properties, dice)
    if dice.random() < 0.3:
        body = _scrambled(body, dice)
    body = dice.choice(RUBBISH) if dice.random() < 0.02 else body
    if not _can_be_sent(properties):
        properties = {"application_headers": {name: str(value) for name, value in good.headers.items()}}
    return Mutant(good.queue, good.mark, body, properties)


def _can_be_sent(properties: Any) -> bool:
    """False for what py-amqp cannot write, or what RabbitMQ closes the connection for."""
    if not isinstance(properties, dict):
        return False
    try:
        amqp.Message(b"", **properties)._serialize_properties()
    except Exception:
        return False
    return properties.get("delivery_mode") in (1, 2) and not properties.keys() - {
        name for name, _ in amqp.Message.PROPERTIES
    }


def _parts(good: Good, dice: random.Random) -> tuple[Any, bytes, str]:
    """Headers, body and its encoding in Redis, each changed or not."""
    headers, body = good.headers, good.body
    if dice.random() < 0.4:
        headers = _changed(headers, dice)
    if dice.random() < 0.5:
        body = _changed(body, dice)
    text, encoding = _written(body), dice.choice(["utf-8", "utf-8", "base64"])
    if dice.random() < 0.1 and isinstance(headers, dict):
        name = dice.choice(list(PACKERS))
        text, encoding = PACKERS[name](text), "base64"
        headers = {**headers, "compression": dice.choice([name] * 3 + ["application/x-gzip", "nope", 5])}
        if dice.random() < 0.5:
            text = _scrambled(text, dice)
    if dice.random() < 0.1:
        text = text.replace(b'"quietly"', b"[" * (depth := dice.choice([90, 150, 900])) + b"]" * depth)
    return headers, text, encoding


def _changed(value: Any, dice: random.Random) -> Any:
    """A copy with another value, or name, in one place."""
    if not isinstance(value, (dict, list)) or not value or dice.random() < 0.15:
        return dice.choice(ODDITIES)
    if isinstance(value, list):
        at = dice.randrange(len(value))
        match dice.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, dice.choice(ODDITIES)]
            case _:
                return [*value[:at], _changed(value[at], dice), *value[at + 1 :]]
    name = dice.choice(list(value))
    match dice.randrange(6):
        case 0:
            return {other: part for other, part in value.items() if other != name}
        case 1:
            return {**value, dice.choice(NAMES): dice.choice(ODDITIES)}
        case 2:
            return {dice.choice(NAMES) if other == name else other: part for other, part in value.items()}
        case _:
            return {**value, name: _changed(value[name], dice)}


def _scrambled(text: bytes, dice: random.Random) -> bytes:
    """The bytes with some of them changed, missing, doubled or new."""
    at, length = dice.randrange(len(text) + 1), dice.choice([1, 1, 2, 8, 100])
    some = text[at : at + length]
    match dice.randrange(6):
        case 0:
            return text[:at] + bytes(dice.randrange(256) for _ in some) + text[at + length :]
        case 1:
            return text[:at] + text[at + length :]
        case 2:
            return text[:at] + some + some + text[at + length :]
        case 3:
            return text[:at]
        case 4:
            return text[:at] + bytes(dice.choice(b'\x00\xff"\\{}[],:9eE-') for _ in range(length)) + text[at:]
        case _:
            return text + some


def _written(value: Any) -> bytes:
    return json.dumps(value).encode()
