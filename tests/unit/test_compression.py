"""Bodies that unpack to far more than they are: they become dead letters, as they came."""

import bz2
import lzma
import tracemalloc
import zlib
from contextlib import suppress
from typing import Any

import amqp
import pytest
from kombu.compression import compress

from choreo.broker import compression
from choreo.broker.compression import UnpacksTooLargeError, errors_in, unpacked
from choreo.broker.queue import HandlerQueue
from choreo.broker.rabbitmq.reading import ReadingChannel
from choreo.broker.redis.bounded import BoundedMessage
from choreo.events.message import JSON
from tests.unit.test_queue import GOOD, Channel

#: In place of `MOST_UNPACKED`, so that making the bombs takes no time.
MOST = 4 * 1024 * 1024
BOMB = bytes(8 * MOST)
BOMBS = {
    "application/x-gzip": zlib.compress(BOMB),
    "application/x-bz2": bz2.compress(BOMB),
    "bz2 of two streams": bz2.compress(b"[]") + bz2.compress(BOMB),
    "application/x-lzma": lzma.compress(BOMB, preset=0),
    "lzma of two streams": lzma.compress(b"[]") + lzma.compress(BOMB, preset=0),
    # Kombu unpacks one layer: what is in it is no JSON, however small it is.
    "gzip of gzip": zlib.compress(zlib.compress(bytes(100)) + BOMB),
}
with suppress(ImportError):
    import brotli

    BOMBS["application/x-brotli"] = brotli.compress(BOMB, quality=5)
with suppress(ImportError):
    from backports import zstd

    BOMBS["application/zstd"] = zstd.compress(BOMB)
    BOMBS["zstd of two streams"] = zstd.compress(b"[]") + zstd.compress(BOMB)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MOST_UNPACKED", MOST)


def method_of(name: str) -> str:
    known = name if name.startswith("application/") else f"application/x-{name.split()[0]}"
    return "application/zstd" if known.endswith("zstd") else known


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
    assert "more than 4,194,304 bytes" in str(error)
    assert message.body == body
    assert message.headers["compression"] == method_of(name)
    assert most < 5 * MOST


@pytest.mark.parametrize("method", sorted({method_of(name) for name in BOMBS}))
def test_what_is_not_too_large_is_unpacked_as_by_kombu(method: str) -> None:
    text = b"[1, 2]" * 1000
    body, known = compress(text, method)

    assert unpacked(body, known) == text
    assert on_redis(Channel(), body, {"compression": known}).body == text


def test_the_memory_that_a_stream_asks_for_is_bounded_too() -> None:
    greedy = lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}])

    with pytest.raises((lzma.LZMAError, UnpacksTooLargeError)):
        unpacked(greedy, "lzma")


def test_a_release_of_brotli_without_a_limit_gets_a_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    brotli = pytest.importorskip("brotli")
    make = brotli.Decompressor

    class Older:
        def __init__(self) -> None:
            decoder = make()
            self.process, self.is_finished = decoder.process, decoder.is_finished

    monkeypatch.setattr(brotli, "Decompressor", Older)

    with pytest.raises(UnpacksTooLargeError):
        unpacked(BOMBS["application/x-brotli"], "brotli")
    assert unpacked(brotli.compress(b"abc" * 5000), "brotli") == b"abc" * 5000


@pytest.mark.parametrize("make", [on_redis, on_rabbitmq])
def test_a_codec_in_place_of_an_encoding_unpacks_nothing(make: Any) -> None:
    message = make(Channel(), zlib.compress(BOMB), {})
    assert errors_in(message.body, {}, "zlib")
    assert errors_in(message.body, {}, "ZIP")
    for encoding in ("utf-8", "UTF-16", "latin-1", "binary", None, 5, "no-such-codec", []):
        assert errors_in(b"[]", {}, encoding) == []


def test_what_comes_beside_the_queues_of_a_service_is_bounded_on_rabbitmq_too() -> None:
    raw = on_rabbitmq(Channel(), BOMBS["application/x-gzip"], {"compression": "application/x-gzip"})

    message = ReadingChannel.Message(raw, channel=Channel())

    assert isinstance(message.errors[0][1], UnpacksTooLargeError)
    assert message.body == raw.body
