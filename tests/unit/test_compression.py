"""Bodies that unpack to far more than they are: they become dead letters, as they came."""

import bz2
import lzma
import tracemalloc
import zlib
from typing import Any

import amqp
import pytest
from kombu.compression import compress

from choreo.broker.compression import MOST_UNPACKED, UnpacksTooLargeError, unpacked
from choreo.broker.queue import HandlerQueue
from choreo.broker.redis.bounded import BoundedMessage
from choreo.events.message import JSON
from tests.unit.test_queue import GOOD, Channel

BOMB = bytes(4 * MOST_UNPACKED)
BOMBS = {
    "application/x-gzip": zlib.compress(BOMB),
    "application/x-bz2": bz2.compress(BOMB),
    "bz2 of two streams": bz2.compress(b"[]") + bz2.compress(BOMB),
    "application/x-lzma": lzma.compress(BOMB, preset=0),
    "lzma of two streams": lzma.compress(b"[]") + lzma.compress(BOMB, preset=0),
}


def method_of(name: str) -> str:
    return name if name.startswith("application/") else f"application/x-{name.split()[0]}"


def on_redis(channel: Channel, body: bytes, headers: dict[str, Any]) -> Any:
    properties = {"delivery_tag": "t-1", "delivery_info": {"exchange": "", "routing_key": "q"}}
    payload = {"body": body, "headers": headers, "properties": properties, "content-type": JSON}
    return BoundedMessage(payload | {"content-encoding": "utf-8"}, channel=channel)


def on_rabbitmq(channel: Channel, body: bytes, headers: dict[str, Any]) -> Any:
    message = amqp.Message(body, channel=channel, content_type=JSON, application_headers=headers)
    message.delivery_info = {"delivery_tag": "t-1", "exchange": "", "routing_key": "q"}
    return message


@pytest.mark.parametrize("make", [on_redis, on_rabbitmq])
@pytest.mark.parametrize("name", BOMBS)
def test_a_body_that_unpacks_to_too_much_is_parked_as_it_came(name: str, make: Any) -> None:
    parked: list[Any] = []
    channel, body = Channel(), BOMBS[name]
    headers = {**GOOD.headers, "compression": method_of(name)}
    queue = HandlerQueue("q", handler="payment.charge", park=lambda *all_of_it: parked.append(all_of_it))
    queue.bind(channel).consume("tag", pytest.fail)

    tracemalloc.start()
    channel.on_delivery(make(channel, body, headers))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    ((_, message, error),) = parked
    assert "more than 33,554,432 bytes" in str(error)
    assert message.body == body
    assert message.headers["compression"] == method_of(name)
    assert most < 3 * MOST_UNPACKED


@pytest.mark.parametrize("method", ["gzip", "bzip2", "lzma"])
def test_what_is_not_too_large_is_unpacked_as_by_kombu(method: str) -> None:
    text = b"[1, 2]" * 1000
    body, known = compress(text, method)

    assert unpacked(body, known) == text
    assert on_redis(Channel(), body, {"compression": known}).body == text


def test_the_memory_that_a_stream_asks_for_is_bounded_too() -> None:
    greedy = lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}])

    with pytest.raises((lzma.LZMAError, UnpacksTooLargeError)):
        unpacked(greedy, "lzma")
