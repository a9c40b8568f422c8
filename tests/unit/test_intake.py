"""The intake broadcasts CloudEvents of other programs, and acks each only after that. What it cannot is kept."""

import json
import re
from typing import Any

import pytest

from choreo.broker import intake
from choreo.broker.incoming import UNREADABLE
from choreo.broker.intake import IntakeQueue
from choreo.errors import DeclarationError, EventTooLargeError, PublishError
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from tests.unit.stage import service
from tests.unit.test_queue import Channel, amqp_message, virtual_message

EVENT = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "Shop.OrderPlaced", "data": {"total_cents": 5}}
OUTAGE = PublishError("the broker is away")
REFUSAL = PublishError("no such routing key", is_outage=False)


class Intake:
    """The intake of the service ``payment``, and what became of what was delivered to it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.channel = error, Channel()
        self.forwarded: list[Envelope] = []
        self.parked: list[tuple[str, Message, str]] = []
        queue = IntakeQueue(
            "choreo.intake",
            handler="payment",
            park=lambda handler, message, error: self.parked.append((handler, message, str(error))),
            forward=self._forward,
            raw_type=UNREADABLE,
            channel=self.channel,
        )
        queue.consume(callback=lambda _: pytest.fail("no task runs for an event of the intake"))

    def _forward(self, envelope: Envelope) -> None:
        if self.error is not None:
            raise self.error
        self.forwarded.append(envelope)

    def deliver(
        self, body: Any, content_type: str = UNREADABLE, headers: Any = None, make: Any = virtual_message
    ) -> Any:
        """The broker's answer to a delivery."""
        self.channel.on_delivery(make(self.channel, body, headers or {}, content_type, "binary"))
        ((answer, _),) = self.channel.answers
        return answer


def test_a_text_that_was_pushed_to_the_list_is_broadcast_and_then_acked():
    taking = Intake()

    assert taking.deliver(json.dumps(EVENT).encode()) == "ack"
    assert [(event.id, event.type, event.data) for event in taking.forwarded] == [
        ("e-1", "Shop.OrderPlaced", {"total_cents": 5})
    ]
    assert taking.forwarded[0].time.tzinfo


@pytest.mark.parametrize("make", [virtual_message, amqp_message])
@pytest.mark.parametrize(
    ("body", "content_type", "headers"),
    [
        (json.dumps(EVENT), "application/cloudevents+json", {}),
        ('{"total_cents": 5}', "application/json", {f"ce-{name}": EVENT[name] for name in EVENT if name != "data"}),
    ],
)
def test_both_modes_are_broadcast(make: Any, body: str, content_type: str, headers: Any):
    taking = Intake()

    assert taking.deliver(body, content_type, headers, make) == "ack"
    assert taking.forwarded[0].data == {"total_cents": 5}


@pytest.mark.parametrize(
    ("body", "content_type", "fault"),
    [
        (b"", UNREADABLE, "the body is not JSON"),
        (b"\xff", UNREADABLE, "the body is not JSON"),
        (b"[1]", UNREADABLE, "not a CloudEvent as a JSON object"),
        (json.dumps(EVENT | {"type": ""}).encode(), UNREADABLE, "type is ''"),
        (json.dumps(EVENT | {"data": [1]}).encode(), UNREADABLE, "data is list"),
        (("[" * 5000).encode(), UNREADABLE, "not JSON|nested"),
        (b'{"data":' + b"[" * 150 + b"]" * 150 + b"}", UNREADABLE, "nested more than 100 times"),
        (b"{}", "application/json", "the intake takes CloudEvents"),
    ],
)
def test_what_holds_no_event_is_kept_byte_for_byte_for_the_service(body: bytes, content_type: str, fault: str):
    taking = Intake()

    assert taking.deliver(body, content_type) == "ack"
    ((handler, message, error),) = taking.parked
    assert (handler, message.body, message.routing_key, message.content_type) == (
        "payment",
        body,
        "choreo.intake",
        content_type,
    )
    assert re.search(fault, error)
    assert not taking.forwarded


def test_an_event_stays_in_the_list_while_the_broker_is_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(intake.time, "sleep", lambda _: None)
    taking = Intake(OUTAGE)

    assert taking.deliver(json.dumps(EVENT)) == "requeue"
    assert not taking.parked


@pytest.mark.parametrize("error", [REFUSAL, EventTooLargeError("too large"), RuntimeError("unforeseen")])
def test_an_event_that_cannot_be_broadcast_at_all_is_kept(error: Exception):
    taking = Intake(error)

    assert taking.deliver(json.dumps(EVENT)) == "ack"
    assert [(handler, str(error) in text) for handler, _, text in taking.parked] == [("payment", True)]


def test_only_a_service_that_says_so_has_the_intake():
    def queues(**settings: Any) -> list[str]:
        return [queue.name for queue in service("payment", **settings).runtime.topology.queues()]

    assert "staging.choreo.intake" in queues(choreo_intake=True, choreo_namespace="staging")
    assert not any("intake" in name for name in queues())


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("choreo_intake", "yes", "it takes True or False"),
        ("choreo_cloudevents_exchange", 5, "the name of an exchange of its own"),
        ("choreo_cloudevents_exchange", "", "the name of an exchange of its own"),
        ("choreo_cloudevents_exchange", "amq.topic", "the name of an exchange of its own"),
        ("choreo_cloudevents_exchange", "staging.choreo.events", "the name of an exchange of its own"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(setting: str, value: Any, says: str):
    app = service("payment", **{setting: value})

    with pytest.raises(DeclarationError, match=f"{setting} = .*{says}"):
        app.conf.get(setting)


def test_an_exchange_for_plain_events_needs_rabbitmq():
    app = service("payment", choreo_cloudevents_exchange="cloudevents")

    with pytest.raises(DeclarationError, match="'cloudevents' needs RabbitMQ"):
        app.publisher  # noqa: B018
