"""Programs in other languages take part: they push CloudEvents, and read those of choreo. Nothing is lost."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import amqp
import pytest
import redis
from kombu.utils.url import parse_url

from tests.integration.workers import ROOT, Payment
from tests.javascript import tax_service
from tests.waiting import DEADLINE, eventually

PLAIN = "plain.events"
EVENT = {"specversion": "1.0", "source": "/test", "type": "tax.recorded", "subject": "ORD-1"}


@pytest.fixture
def payment(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    found = Payment(redis_url, redis_url, namespace, tmp_path, app="languages_app")
    yield found
    found.close()


@pytest.fixture
def on_rabbitmq(rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    found = Payment(rabbitmq_url, redis_url, namespace, tmp_path, app="languages_app")
    yield found
    found.close()


def tax(number: int, **changes: Any) -> dict[str, Any]:
    return EVENT | {"id": f"tax-{number}", "data": {"tax_cents": number}} | changes


def letters(payment: Payment) -> list[str]:
    """The errors of the dead letters of what the intake could not read."""
    return [letter.error for letter in payment.app.dead_letters.find("payment")]


def unheard(payment: Payment) -> int:
    """How many events of a type that nobody hears are reported."""
    found = payment.app.runtime.store.unheard().get("Shop.Unknown")
    return found.count if found else 0


def assert_taken_in(payment: Payment, unreadable: str) -> None:
    """Those that can be read were handled once each, and the others are not lost silently."""
    eventually(lambda: len(payment.noted("tax")) >= 4, reason="four taxes")
    eventually(lambda: letters(payment) and unheard(payment), reason="a dead letter, and an event that nobody hears")

    assert payment.noted("tax") == [1, 2, 3, 4]
    assert unheard(payment) == 1
    (letter,) = letters(payment)
    assert unreadable in letter


def test_what_is_pushed_to_a_list_of_redis_is_handled_once(payment: Payment, redis_url: str) -> None:
    intake = f"{payment.namespace}.choreo.intake"
    client = redis.Redis.from_url(redis_url)
    client.lpush(intake, json.dumps(tax(1)), json.dumps(tax(1)))  # before any worker lives, and twice
    with payment.worker("-P", "solo", choreo_intake=True):
        client.lpush(
            intake,
            json.dumps(tax(2, type="Tax.Recorded.v1", correlationid="story-2")),
            json.dumps(tax(2, source="/another", data={"tax_cents": 3}, time="2026-01-01t12:00:00z")),
            json.dumps(tax(4, data=None, data_base64="eyJ0YXhfY2VudHMiOjR9")),
            json.dumps(tax(5, type="Shop.Unknown")),
            "no event",
        )
        assert_taken_in(payment, "the body is not JSON")
        assert b"story-2 Tax.Recorded.v1" in client.lrange(f"{payment.namespace}:stories", 0, -1)
        eventually(lambda: client.llen(intake) == 0, reason="an empty intake")


def test_what_is_published_to_rabbitmq_is_handled_and_what_choreo_announces_can_be_read(on_rabbitmq: Payment) -> None:
    payment = on_rabbitmq
    plain = f"{payment.namespace}.{PLAIN}"
    settings = {"choreo_intake": True, "choreo_cloudevents_exchange": plain}
    with foreign_channel(payment.broker) as channel, payment.worker("-P", "solo", **settings):
        channel.exchange_declare(plain, "topic", durable=True, auto_delete=False)
        queue = channel.queue_declare("", exclusive=True).queue
        channel.queue_bind(queue, plain, "payment.*")
        exchange, intake = f"{payment.namespace}.choreo.events", f"{payment.namespace}.choreo.intake"
        structured = {"content_type": "application/cloudevents+json"}
        headers = {f"cloudEvents:{name}": value for name, value in tax(2).items() if name != "data"}
        binary = {"content_type": "application/json", "application_headers": headers}
        order = tax(9, type="order.placed", data={"total_cents": 900})

        publish(channel, exchange, "tax.recorded", json.dumps(tax(1)), **structured)
        publish(channel, exchange, "tax.recorded", '{"tax_cents": 2}', **binary)
        publish(channel, exchange, "Tax.Recorded.v1", json.dumps(tax(3, type="Tax.Recorded.v1")), **structured)
        publish(channel, "", intake, json.dumps(tax(4)), **structured)
        publish(channel, "", intake, json.dumps(tax(5, type="Shop.Unknown")), **structured)
        publish(channel, "", intake, json.dumps(tax(6, specversion="0.3")), **structured)
        publish(channel, exchange, "order.placed", json.dumps(order), **structured)

        assert_taken_in(payment, "specversion is '0.3'")
        got: list[Any] = []
        eventually(lambda: got.append(channel.basic_get(queue, no_ack=True)) or got[-1], reason="a plain event")
        event = json.loads(got[-1].body)
        assert got[-1].properties["content_type"] == "application/cloudevents+json"
        assert (event["type"], event["causationid"], event["data"]) == (
            "payment.charged",
            "tax-9",
            {"amount_cents": 900},
        )


def test_a_service_in_javascript_hears_events_and_announces_its_own(payment: Payment, tmp_path: Path) -> None:
    place = limited(payment), payment.namespace
    with payment.worker("-P", "solo", choreo_intake=True):
        with tax_service(*place, log=tmp_path / "first.log") as process:
            charge(payment, range(1, 21))
            eventually(lambda: len(payment.noted("tax")) >= 5, reason="the first taxes")
            process.kill()  # whatever it is in the middle of
            process.wait(DEADLINE)
        charge(payment, range(21, 31))  # its list keeps these
        with tax_service(*place, log=tmp_path / "second.log"):
            eventually(lambda: len(payment.noted("tax")) >= 30, reason="all taxes")

    # Each order once, and no other.
    assert payment.noted("tax") == [19 * number for number in range(1, 31)]


def charge(payment: Payment, numbers: range) -> None:
    from tests.integration.languages_app import OrderPlaced

    payment.app.publish_many([OrderPlaced(total_cents=100 * number).about(f"ORD-{number}") for number in numbers])


def limited(payment: Payment) -> str:
    """The URL of the broker for a user with the rights that the documentation gives it, and no others."""
    text = (ROOT / "docs/other-languages.md").read_text()
    (rights,) = re.findall(r"^ACL SETUSER tax on (.*)$", text, re.MULTILINE)
    rights = rights.replace("choreo.", f"{payment.namespace}.choreo.").replace("~tax", f"~{payment.namespace}.tax")
    with redis.Redis.from_url(payment.broker) as client:
        client.execute_command("ACL", "SETUSER", f"tax-{payment.namespace}", "on", ">secret", *rights.split())
    parts = urlsplit(payment.broker)
    return parts._replace(netloc=f"tax-{payment.namespace}:secret@{parts.hostname}:{parts.port}").geturl()


@contextmanager
def foreign_channel(url: str) -> Iterator[amqp.Channel]:
    """A channel of a program that knows nothing of choreo."""
    parts = parse_url(url)
    connection = amqp.Connection(
        f"{parts['hostname']}:{parts['port'] or 5672}",
        parts["userid"] or "guest",
        parts["password"] or "guest",
        virtual_host=parts["virtual_host"] or "/",
    )
    with connection:
        yield connection.channel()


def publish(channel: amqp.Channel, exchange: str, routing_key: str, body: str, **properties: Any) -> None:
    channel.basic_publish(amqp.Message(body, **properties), exchange, routing_key)
