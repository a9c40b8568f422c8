"""Messages that would end a worker of Celery's, or be lost in it."""

import json
from collections.abc import Iterator
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
from celery import chord, group
from celery.canvas import Signature
from kombu import Exchange, Producer

from choreo.worker.control import node_name
from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually

NODE = node_name("payment", f"one@{gethostname()}")


@pytest.fixture(params=["redis", "rabbitmq"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    broker = redis_url if request.param == "redis" else request.getfixturevalue("rabbitmq")
    payment = Payment(broker, redis_url, namespace, tmp_path)
    yield payment
    payment.close()


def unreadable(payment: Payment) -> list[Any]:
    return [letter for letter in payment.app.dead_letters if letter.reason == "unreadable"]


def send(payment: Payment, exchange: Exchange, key: str, body: Any, headers: Any = None) -> None:
    with payment.app.connection_for_write() as connection:
        Producer(connection.channel(), exchange, key).publish(body, serializer="json", headers=headers)


#: Remote control in forms that no program of Celery's sends.
COMMANDS: list[Any] = [
    *({}, [], 5, None, "x", {"method": 5}, {"method": "nope"}, {"method": "ping", "reply_to": 5}),
    *({"method": "ping", "destination": 5}, {"method": "ping", "pattern": "(", "matcher": "pcre"}),
    *({"method": "rate_limit", "arguments": 5}, {"method": "revoke", "arguments": {"task_id": [[]]}}),
    *({"method": "ping", "arguments": {"x": 1}}, {"method": "hello", "arguments": {"from_node": 5, "revoked": 5}}),
    {"method": "ping", "reply_to": {"exchange": "no.such.exchange", "routing_key": "x"}, "ticket": 5},
]
#: Worker events in such forms.
EVENTS: list[Any] = [
    *([], 5, None, "x", {}, {"type": 5}, {"type": "worker-heartbeat"}, {"type": "worker-heartbeat", "hostname": {}}),
    *(
        {"type": "worker-heartbeat", "hostname": "a@b", "clock": clock}
        for clock in ("x", [], None, 1e308, 2**63, 10**4299)
    ),
    *({"type": "worker-heartbeat", "hostname": "a@b", "timestamp": when} for when in ("x", "5", [], None, 1e308)),
    *(
        {
            "type": "worker-elect",
            "id": number,
            "clock": number,
            "hostname": 5,
            "pid": [],
            "topic": {},
            "action": 5,
            "cver": 1,
        }
        for number in (1, "x", None)
    ),
    *({"type": "worker-elect-ack", "id": []}, {"type": "worker-elect-ack"}),
]


def test_junk_in_remote_control_and_worker_events_ends_no_worker(payment: Payment) -> None:
    worker = payment.worker("-P", "solo", gossips=True)
    control = Exchange(f"{payment.app.conf.control_exchange}.pidbox", "fanout", durable=False, no_declare=True)
    is_redis = payment.broker.startswith("redis")
    events = Exchange("celeryev", "fanout" if is_redis else "topic", no_declare=True)

    for command in COMMANDS:
        send(payment, control, "", command)
        send(payment, control, "", command, {"clock": "x"})
    for event in EVENTS:
        for key in ("worker.heartbeat", "worker.elect", "worker.elect.ack"):
            send(payment, events, key, event)
            send(payment, events, key, event, {"hostname": 5})
    payment.app.publish(OrderPlaced(number=1))

    eventually(lambda: payment.noted("done") == [1])
    eventually(lambda: payment.app.control.ping(destination=[NODE]))
    assert worker.process.poll() is None


SIGNATURE: Any = json.loads(json.dumps(Signature("payment.plain", args=(2,))))
GROUP: Any = json.loads(json.dumps(group(SIGNATURE, SIGNATURE)))
CHORD: Any = json.loads(json.dumps(chord(GROUP, SIGNATURE)))
#: Calls that Celery could not make, as the third part of a call: with a run that succeeds, and with one that fails.
FOLLOWING: list[Any] = [
    *({name: [junk]} for name in ("callbacks", "errbacks", "chain") for junk in ({}, 5, [], None, True, {"task": "x"})),
    *({"chord": junk} for junk in ({}, 5, [5], "x", {"task": 5}, True)),
    *({name: junk} for name in ("callbacks", "errbacks", "chain") for junk in (5, "x", {"a": 1}, True)),
    *({"chain": [SIGNATURE | {"subtask_type": kind}]} for kind in ("chord", "group", "nope", 5)),
    *({"errbacks": [SIGNATURE | {"options": {"link": junk}}]} for junk in (5, [{}])),
    *({"delivery_info": 5}, {"id": []}),
]
#: Calls of Celery's own tasks: the name, and the arguments.
OWN: list[tuple[str, Any]] = [
    *(
        (f"celery.{name}", arguments)
        for name in ("map", "starmap", "chunks", "chord", "chain", "group", "chord_unlock")
        for arguments in ([], [{}, 5], [5, [[5]]])
    ),
    ("celery.chord_unlock", ["g", SIGNATURE, None, None, [[["x", None], None]]]),
]


def test_calls_that_celery_cannot_make_are_set_aside_and_end_no_worker(payment: Payment) -> None:
    worker = payment.worker("-P", "solo")
    queue = payment.app.runtime.topology.default_queue
    count = 0

    def call(task: str, arguments: Any, following: Any) -> None:
        nonlocal count
        count += 1
        headers = {"task": task, "id": f"t-{count}", "retries": 0}
        send(payment, Exchange(""), queue, [arguments, {}, following], headers)

    for following in FOLLOWING:
        call("payment.plain", [1], following)
        call("payment.plain", [0], following)
    for task, arguments in OWN:
        call(task, arguments, {})
    # In the right form, but Celery cannot make the call even so.
    for following in ({"callbacks": [SIGNATURE | {"options": {"priority": "x", "countdown": "x"}}]},):
        send(payment, Exchange(""), queue, [[1], {}, following], {"task": "payment.plain", "id": "odd", "retries": 0})
    payment.app.publish(OrderPlaced(number=1))
    payment.app.send_task("payment.plain", (7,))

    eventually(lambda: payment.noted("done") == [1] and 7 in payment.noted("plain"))
    eventually(lambda: len(unreadable(payment)) >= count)
    assert worker.process.poll() is None
    assert len(unreadable(payment)) == count


@pytest.mark.parametrize("lane", [True, False])
def test_what_a_child_of_the_pool_cannot_read_becomes_a_dead_letter(
    lane: bool, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    payment = Payment(redis_url, redis_url, namespace, tmp_path)
    try:
        payment.worker(deaf=True, choreo_fast_lane=lane, choreo_bundles=False)

        payment.app.publish(OrderPlaced(number=1), subject="ORD-1")

        (letter,) = eventually(lambda: unreadable(payment))
        assert letter.handler == "payment.charge_customer"
        assert b"ORD-1" in letter.message.body
        assert "ContentDisallowed" in letter.error
        assert payment.noted("begun") == []
    finally:
        payment.close()
