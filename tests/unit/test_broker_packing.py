"""A message as JSON text."""

import base64
import json
import zlib

import pytest

from choreo.broker.redis.packing import UNREADABLE, encode_body, head_of_copies, redelivered, unpack
from choreo.broker.redis.receipt import Receipt


def _message(**parts):
    return {
        "body": "[]",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "t"},
        "properties": {"delivery_info": {"exchange": "ev", "routing_key": "a.b"}, "delivery_tag": "x", "priority": 0},
        **parts,
    }


def test_text_travels_as_text_and_other_bytes_as_base64():
    assert encode_body('{"a": "é"}', {}) == ('{"a": "é"}', "utf-8")
    assert encode_body("é".encode(), {}) == ("é", "utf-8")
    assert encode_body(b"\xff\x00", {}) == (base64.b64encode(b"\xff\x00").decode(), "base64")


def test_compressed_bytes_stay_bytes_even_if_they_happen_to_be_text():
    assert encode_body(b"abc", {"compression": "application/x-gzip"}) == ("YWJj", "base64")


def test_a_copy_is_addressed_to_its_own_queue_whatever_the_body_contains():
    head = head_of_copies(_message(body='"routing_key": "\\u0000"}}', headers={"ü": "ß"}))

    copy = json.loads(head + json.dumps('que"ue') + '}, "delivery_tag": "tag.1"}}')

    assert copy["body"] == '"routing_key": "\\u0000"}}'
    assert copy["properties"]["delivery_info"] == {"exchange": "", "routing_key": 'que"ue'}
    assert copy["properties"]["delivery_tag"] == "tag.1"


def test_base64_of_other_producers_is_read():
    text = json.dumps(_message(body=base64.b64encode(b"\xff").decode(), properties={"body_encoding": "base64"}))

    assert unpack(text.encode())["body"] == b"\xff"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"5",
        b"[]",
        b"{}",
        b"not json",
        b"[" * 100_000,
        json.dumps(_message(properties=None)).encode(),
        json.dumps(_message(properties={"delivery_info": 5})).encode(),
        json.dumps(_message(headers=["task"])).encode(),
        json.dumps(_message(body={"a": 1})).encode(),
        json.dumps(_message(body="!", properties={"body_encoding": "base64"})).encode(),
        json.dumps(_message(body="x", properties={"body_encoding": "rot13"})).encode(),
        json.dumps(_message(body="x", properties={"body_encoding": 7})).encode(),
        json.dumps(_message(headers={"id": {"__type__": "uuid", "__value__": 5}})).encode(),
        json.dumps(_message(headers={"id": {"__type__": "decimal", "__value__": "abc"}})).encode(),
    ],
    ids=lambda text: text[:12],
)
def test_what_cannot_be_read_becomes_a_delivery_that_says_so_with_its_raw_bytes(text: bytes):
    message = unpack(text)

    assert message["content-type"] == UNREADABLE
    assert message["body"] == text


def test_a_redelivered_message_says_so_and_counts_failed_attempts():
    text = json.dumps(_message()).encode()

    once = redelivered(text, counted=True)
    twice = json.loads(redelivered(once.encode(), counted=True))
    clean = json.loads(redelivered(text, counted=False))

    assert twice["headers"] == {"task": "t", "x-delivery-count": 2}
    assert twice["properties"]["delivery_info"]["redelivered"] is True
    assert clean["headers"] == {"task": "t"}
    assert clean["properties"]["delivery_info"]["redelivered"] is True


@pytest.mark.parametrize("count", ["Infinity", "NaN", '"often"', "[]", "{}", "true"])
def test_what_is_no_count_counts_as_none(count: str):
    text = json.dumps(_message(headers={"x-delivery-count": "COUNT"})).replace('"COUNT"', count)

    assert json.loads(redelivered(text.encode(), counted=True))["headers"]["x-delivery-count"] == 1


def test_what_cannot_be_read_comes_back_as_it_is():
    assert redelivered(b"not json", counted=True) == ""


def test_the_receipt_is_in_the_properties_and_missing_where_another_transport_delivered():
    info = {"choreo_tag": "o:7"}

    assert Receipt.of({"delivery_info": info}) == Receipt(tag="o:7")
    assert Receipt.of({"delivery_info": info | {"redelivered": True}}).redelivered
    assert Receipt.of({"delivery_info": {"exchange": ""}}) is None
    assert Receipt.of(None) is None


def test_compressed_text_is_still_compressed_after_the_journey():
    packed = zlib.compress(b"[]")
    body, encoding = encode_body(packed, {"compression": "application/x-gzip"})

    text = json.dumps(_message(body=body, properties={"body_encoding": encoding})).encode()

    assert unpack(text)["body"] == packed
