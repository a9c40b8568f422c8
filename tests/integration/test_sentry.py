"""What Sentry hears of failures, as docs/deployment.md says: one event for each, with its error and its handler."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from choreo import Reason
from choreo.events.ids import task_id
from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually


@pytest.fixture
def payment(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    payment = Payment(redis_url, redis_url, namespace, tmp_path, app="sentry_app")
    payment.settings["collected"] = str(tmp_path / "events")
    yield payment
    payment.close()


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_each_failure_is_one_event_with_its_error_and_its_handler(payment: Payment, tmp_path: Path, pool: str):
    revoked = "payment.charge_customer"
    with payment.worker("--pool", pool) as worker:
        identity = "b0c7d1a4-0000-4000-8000-000000000001"
        payment.app.control.revoke(task_id(identity, revoked))
        eventually(lambda: task_id(identity, revoked) in str(payment.app.control.inspect().revoked()))
        published = [envelope_of(identity)]
        for number in (1, 2, 3):
            published.append(payment.app.publish(OrderPlaced(number=number), subject=f"ORD-{number}"))
        payment.app.publisher.announce(published[:1])
        eventually(lambda: len(list(payment.app.dead_letters)) == 6, reason="six dead letters")
        letters = [letter.id for letter in payment.app.dead_letters]
        worker.stop()

    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    told = sorted((event["transaction"], error_of(event)) for event in events)
    assert told == [
        ("payment.book_revenue", "InvalidEventError"),
        ("payment.charge_customer", "PermanentFailure"),
        ("payment.charge_customer", "ValueError"),
        ("payment.charge_customer", str(Reason.REVOKED)),
        ("payment.send_receipt", "PermanentFailure"),
        ("payment.send_receipt", "ValueError"),
    ]
    # Sentry groups events without an error by their format string, and the others by the functions of their traceback.
    formats = [event["logentry"]["message"] for event in events]
    assert all(event["transaction"] in text for event, text in zip(events, formats, strict=True))
    stories = {sent.subject: sent.correlation_id for sent in published}
    for event in events:
        tags = event["tags"]
        assert event["fingerprint"] == [event["transaction"], "{{ default }}"]
        assert tags["choreo.handler"] == event["transaction"]
        assert tags["choreo.type"] == "order.placed"
        assert tags["choreo.story"] == stories[tags["choreo.subject"]]
        assert tags["choreo.letter"] in letters
        if event["transaction"] != "payment.book_revenue" and "exception" in event:
            frames = event["exception"]["values"][-1]["stacktrace"]["frames"]
            assert event["transaction"].partition(".")[2] in [frame["function"] for frame in frames]


def envelope_of(identity: str) -> Any:
    order = OrderPlaced(number=4)
    return order.sealed(id=identity, source="shop", subject="ORD-4", cause=None, time=datetime.now(UTC))


def error_of(event: dict[str, Any]) -> str:
    """The class of its error; the reason of the dead letter if there is none."""
    if "exception" in event:
        return str(event["exception"]["values"][-1]["type"])
    return str(Reason.REVOKED) if "(revoked: " in event["logentry"]["message"] else "?"
