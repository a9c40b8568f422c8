"""A worker on RabbitMQ: its queues, its shutdown, and what the broker does without being asked."""

import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kombu import Queue

from choreo.broker.topology import HANDLER_QUEUE
from choreo.delivery.dead_letter import Reason
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.local.server import EmbeddedServer
from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.servers import rabbitmq_vhost, require_rabbitmq
from tests.waiting import DEADLINE, eventually


@pytest.fixture(scope="module")
def broker_url() -> Iterator[str]:
    with rabbitmq_vhost(require_rabbitmq()) as url:
        yield url


@pytest.fixture
def payment(broker_url: str, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    payment = Payment(broker_url, redis_url, namespace, tmp_path)
    yield payment
    payment.close()


def declare(payment: Payment, name: str, **arguments: Any) -> None:
    """Make a queue as an earlier version of the service, or somebody else, made it."""
    with payment.app.connection_for_write() as connection:
        Queue(name, queue_arguments=arguments)(connection.channel()).queue_declare()


def an_envelope(subject: str) -> Envelope:
    time = datetime(2026, 8, 1, tzinfo=UTC)
    return Envelope("event-7", "order.placed", "web", subject, time, "story-7", data={"number": 7, "seconds": 0})


def taken(payment: Payment, count: int) -> list[Any]:
    """Take messages off the handler's queue, as another worker would."""
    messages: list[Any] = []
    with payment.app.connection_for_read() as connection:
        queue = Queue(payment.queue)(connection.channel())

        def take() -> bool:
            while message := queue.get(no_ack=True):
                messages.append(message)
            return len(messages) >= count

        eventually(take, reason=f"{count} messages in {payment.queue}")
    return messages


def test_a_worker_shows_its_queues_as_they_are_and_makes_no_others(payment: Payment) -> None:
    payment.worker(patterns="order.*")
    control, namespace = payment.app.control, payment.namespace

    (queues,) = control.inspect(timeout=DEADLINE, limit=1).active_queues().values()

    shown = {queue["name"]: (queue["exchange"]["name"], queue["routing_key"]) for queue in queues}
    assert shown == {
        f"{namespace}.payment.charge_customer": (f"{namespace}.choreo.events", "order.placed"),
        f"{namespace}.payment.watch_order": (f"{namespace}.choreo.events", "order.*"),
        f"{namespace}.payment.dead_letters": ("", f"{namespace}.payment.dead_letters"),
        f"{namespace}.payment": (f"{namespace}.payment", f"{namespace}.payment"),
    }
    with payment.app.connection_for_read() as connection, pytest.raises(connection.channel_errors, match="NOT_FOUND"):
        Queue("celery_delayed_0")(connection.channel()).queue_declare(passive=True)


def test_the_banner_says_where_events_come_from(payment: Payment) -> None:
    log = payment.worker(patterns="order.*").log()

    exchange = f"exchange={payment.namespace}.choreo.events(topic)"
    assert f".> {payment.queue} {exchange} key=order.placed\n" in log
    assert f".> {payment.namespace}.payment.watch_order {exchange} key=order.*\n" in log
    assert "delayed" not in log


def test_what_does_not_belong_into_a_handlers_queue_is_kept_as_a_dead_letter(payment: Payment) -> None:
    payment.worker()
    answers = payment.app.control.add_consumer("reports", reply=True, timeout=10, limit=1)
    assert "payment has no queue 'reports'" in str(answers)

    # Celery would drop the first silently, and lose the second in an exchange that nothing is bound to.
    declared = Queue(payment.queue, queue_arguments={"x-queue-type": "quorum"}, no_declare=True)
    payment.app.send_task("reports.print", args=[1], queue=declared)

    letter = eventually(lambda: list(payment.app.dead_letters))[0]
    assert (letter.handler, letter.reason) == ("payment.charge_customer", Reason.UNREADABLE)
    assert "reports.print" in letter.error
    assert b"[1]" in letter.message.body


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_sigterm_finishes_what_runs_and_returns_the_rest_at_once(pool: str, payment: Payment) -> None:
    worker = payment.worker("--pool", pool, "--prefetch-multiplier", "4")
    payment.app.publish_many(OrderPlaced(number=number, seconds=10) for number in range(6))
    eventually(lambda: len(payment.noted("begun")) == 2)

    worker.process.terminate()
    returned = taken(payment, 4)

    assert payment.noted("done") == []
    assert worker.process.wait(DEADLINE) == 0
    assert payment.noted("begun") == payment.noted("done")
    running = set(payment.noted("done"))
    numbers = {message.payload[0][0]["data"]["number"] for message in returned}
    assert numbers == set(range(6)) - running


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_handler_that_takes_too_long_to_stop_is_ended_and_its_event_returned(pool: str, payment: Payment) -> None:
    worker = payment.worker("--pool", pool, choreo_shutdown_timeout=1)
    payment.app.publish(OrderPlaced(number=1, seconds=600), subject="ORD-1")
    eventually(lambda: payment.noted("begun"))

    worker.process.terminate()
    worker.process.wait(DEADLINE)

    worker.wait_for("ending payment.charge_customer(order.placed ORD-1), not done 1 s after the signal to stop")
    (message,) = taken(payment, 1)
    assert message.headers["task"] == "choreo.event"
    assert payment.noted("done") == []
    # It is no failed attempt: neither a retry nor a dead letter.
    assert payment.app.runtime.store.backlog("payment.charge_customer").total == 0


def test_sigterm_to_the_whole_process_group_loses_nothing(payment: Payment) -> None:
    worker = payment.worker("--pool", "prefork")
    payment.app.publish_many(OrderPlaced(number=number, seconds=1.5) for number in range(6))
    eventually(lambda: len(payment.noted("begun")) >= 2)

    os.killpg(worker.process.pid, signal.SIGTERM)

    worker.process.wait(DEADLINE)
    payment.worker("--pool", "prefork", name="two")
    eventually(lambda: set(payment.noted("done")) == set(range(6)))
    assert list(payment.app.dead_letters) == []


def test_what_the_broker_gave_up_delivering_becomes_a_dead_letter_of_its_handler(payment: Payment) -> None:
    letters = payment.app.runtime.topology.dead_letter_queue
    declare(payment, letters, **{"x-queue-type": "quorum"})
    arguments = HANDLER_QUEUE | {"x-dead-letter-routing-key": letters, "x-delivery-limit": 3}
    declare(payment, payment.queue, **arguments)
    event = Message.carrying(an_envelope("ORD-7"), exchange="", routing_key=payment.queue)
    payment.app.publisher.send([event])
    with payment.app.connection_for_read() as connection:
        queue = Queue(payment.queue)(connection.channel())
        for _ in range(4):
            eventually(lambda: queue.get()).reject(requeue=True)

    payment.worker()
    letter = eventually(lambda: list(payment.app.dead_letters))[0]

    assert (letter.handler, letter.reason, letter.subject) == ("payment.charge_customer", Reason.POISON, "ORD-7")
    assert letter.envelopes == (an_envelope("ORD-7"),)
    assert payment.noted("done") == []
    payment.app.dead_letters.replay(letter.id)
    assert eventually(lambda: payment.noted("done")) == [7]


def test_a_store_that_is_away_makes_no_dead_letter_of_what_waits_for_it(
    broker_url: str, namespace: str, tmp_path: Path
) -> None:
    with EmbeddedServer(persistent=True) as store:
        payment = Payment(broker_url, store.url, namespace, tmp_path)
        letters = payment.app.runtime.topology.dead_letter_queue
        # Given back as often as the queue allows within the time that the store is away.
        arguments = HANDLER_QUEUE | {"x-dead-letter-routing-key": letters, "x-delivery-limit": 2}
        declare(payment, payment.queue, **arguments)
        worker = payment.worker("--pool", "threads")
        store.kill()
        payment.app.publish(OrderPlaced(number=1))
        worker.wait_for("it is held until the store is back")
        time.sleep(8)  # the outage: what is tested is that nothing happens in it
        store.restart()

        assert eventually(lambda: payment.noted("done") == [1])
        assert list(payment.app.dead_letters) == []
        assert worker.log().count("it is held until the store is back") == 1
        payment.close()


def test_a_queue_with_other_arguments_is_used_as_it_is_and_explained(payment: Payment) -> None:
    declare(payment, payment.queue, **{"x-queue-type": "quorum", "x-delivery-limit": 5})

    worker = payment.worker("--prefetch-multiplier", "1")
    payment.app.publish(OrderPlaced(number=1))

    assert eventually(lambda: payment.noted("done")) == [1]
    log = worker.log()
    assert f"queue {payment.queue} exists with other settings than this version gives it, and is used as it is" in log
    assert "inequivalent arg 'x-d" in log
    assert "delete the queue" in log
    assert "Traceback" not in log
    # The limit of what it takes at once is not lost with the channel that the broker closed.
    payment.app.publish_many(OrderPlaced(number=number, seconds=2) for number in range(10, 30))
    eventually(lambda: len(payment.noted("begun")) == 3)
    assert len(taken(payment, 16)) >= 16


def test_a_worker_whose_name_is_taken_says_so_and_begins_once_the_name_is_free(payment: Payment) -> None:
    first = payment.worker("--pool", "solo", "-n", "fast@%h", name="first")
    second = payment.begin("--pool", "solo", "-n", "fast@%h", name="second")
    second.wait_for("another worker is named payment.fast@")
    assert "ready." not in second.log()

    first.stop()

    log = second.wait_for("ready.")
    assert "-n second@%h" in log
    assert log.count("another worker is named") == 1
    assert "Connection to broker lost" not in log
    assert "Traceback" not in log


def test_a_highest_priority_and_the_first_protocol_of_tasks_keep_no_worker_from_starting(payment: Payment) -> None:
    worker = payment.worker("--pool", "solo", task_queue_max_priority=10)
    payment.app.conf.task_protocol = 1

    payment.app.send_task("payment.note_number", [1])
    payment.app.publish(OrderPlaced(number=2))

    eventually(lambda: payment.noted("task") == [1] and payment.noted("done") == [2])
    log = worker.log()
    assert "task_queue_max_priority = 10 is for queues of ordinary tasks" in log
    assert "exists with other settings" not in log


def test_a_queue_that_the_broker_refuses_to_make_ends_the_worker_with_its_reason(payment: Payment) -> None:
    worker = payment.begin("--pool", "solo", task_queue_max_priority=1000)

    log = worker.wait_for(f"RabbitMQ does not make queue {payment.namespace}.payment: ")

    assert worker.process.wait(DEADLINE) == 1
    assert "max-priority" in log
    assert "exists with other settings" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_queue_that_is_deleted_under_its_worker_is_made_and_consumed_again(pool: str, payment: Payment) -> None:
    worker = payment.worker("--pool", pool)
    payment.app.publish(OrderPlaced(number=1))
    eventually(lambda: payment.noted("done") == [1])

    with payment.app.connection_for_write() as connection:
        Queue(payment.queue)(connection.channel()).delete()
    worker.wait_for(f"has cancelled the consumer of queue {payment.queue}")
    eventually(lambda: consumers(payment) == 1, reason="the queue is consumed again")
    payment.app.publish(OrderPlaced(number=2))

    assert eventually(lambda: payment.noted("done") == [1, 2])
    assert "Connection to broker lost" not in worker.log()
    assert payment.noted("begun") == [1, 2]


def consumers(payment: Payment) -> int:
    """How many consumers the handler's queue has; 0 if there is no such queue."""
    with payment.app.connection_for_write() as connection:
        try:
            declared = Queue(payment.queue)(connection.channel()).queue_declare(passive=True)
        except connection.channel_errors:
            return 0
        return int(declared.consumer_count)


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_quick_handler_is_given_more_at_a_time_and_handles_each_event_once(pool: str, payment: Payment) -> None:
    worker = payment.worker("--pool", pool)

    payment.app.publish_many(OrderPlaced(number=n) for n in range(1000))

    worker.wait_for(f"queue {payment.queue} is consumed anew, with a prefetch of ")
    eventually(lambda: len(payment.noted("done")) >= 1000, reason="all are handled")
    assert payment.noted("begun") == payment.noted("done") == list(range(1000))
