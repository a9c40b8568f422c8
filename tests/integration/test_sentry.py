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

#: See `sentry_app`.
DEADLY = 13


@pytest.fixture
def payment(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    payment = Payment(redis_url, redis_url, namespace, tmp_path, app="sentry_app", fresh=True)
    payment.settings["collected"] = str(tmp_path / "events")
    yield payment
    payment.close()


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_each_failure_is_one_event_with_its_error_and_its_handler(payment: Payment, tmp_path: Path, pool: str):
    revoked = "payment.charge_customer"
    with payment.worker("--pool", pool) as worker:
        identity = "b0c7d1a4-0000-4000-8000-000000000001"

        def is_revoked() -> bool:
            # Again and again: Redis keeps no command for a worker that does not listen yet.
            payment.app.control.revoke(task_id(identity, revoked))
            return task_id(identity, revoked) in str(payment.app.control.inspect().revoked())

        eventually(is_revoked, reason="a revoked run")
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


def test_a_time_limit_is_one_event_and_not_one_for_each_attempt(payment: Payment, tmp_path: Path) -> None:
    payment.settings["limit"] = 1
    with payment.worker("--pool", "prefork") as worker:
        payment.app.publish(OrderPlaced(seconds=1000), subject="ORD-1")
        (letter,) = eventually(lambda: payment.app.dead_letters.find("payment.ship"), reason="a dead letter")
        worker.stop()

    assert letter.attempts == 2
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [event["tags"].get("choreo.letter") for event in events] == [letter.id]
    (event,) = events
    assert event["exception"]["values"][-1]["type"] == "HandlerTimeoutError"


def test_a_process_that_ended_is_one_event_with_its_handler(payment: Payment, tmp_path: Path) -> None:
    payment.settings["limit"] = 1000
    with payment.worker("--pool", "prefork") as worker:
        payment.app.publish(OrderPlaced(number=DEADLY), subject="ORD-1")
        eventually(lambda: (tmp_path / "events").exists(), reason="an event")
        worker.wait_for("exited with")
        worker.stop()

    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert {error_of(event) for event in events} == {"WorkerLostError"}
    assert {event["logger"] for event in events} == {"celery.worker.request"}
    for event in events:
        assert event["fingerprint"] == ["payment.ship", "{{ default }}"]
        assert event["tags"]["choreo.handler"] == "payment.ship"


def envelope_of(identity: str) -> Any:
    order = OrderPlaced(number=4)
    return order.sealed(id=identity, source="shop", subject="ORD-4", cause=None, time=datetime.now(UTC))


def error_of(event: dict[str, Any]) -> str:
    """The class of its error; the reason of the dead letter if there is none."""
    if "exception" in event:
        return str(event["exception"]["values"][-1]["type"])
    return str(Reason.REVOKED) if "(revoked: " in event["logentry"]["message"] else "?"
