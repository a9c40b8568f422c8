"""A RabbitMQ that stops, runs out of memory, refuses, or loses patience: on a node of the tests' own."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo import PublishError
from choreo.broker import lines, publisher
from choreo.broker.rabbitmq import confirms
from choreo.broker.rabbitmq.steady_queue import SteadyQueue
from choreo.broker.topology import HANDLER_QUEUE
from tests.integration.orders import OrderPlaced
from tests.integration.rabbitmq_node import RabbitNode
from tests.integration.workers import Payment
from tests.waiting import DEADLINE, eventually

BEGIN_AGAIN = """
    {ok, Queue} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"NAME">>)),
    {Name, _} = Id = amqqueue:get_pid(Queue),
    Machine = {module, rabbit_fifo, #{name => Name, queue_resource => amqqueue:get_name(Queue)}},
    ok = ra:force_delete_server(quorum_queues, Id),
    ok = ra:start_server(quorum_queues, Name, Id, Machine, [Id]).
"""


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitNode]:
    with RabbitNode() as node:
        yield node


@pytest.fixture
def payment(node: RabbitNode, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    payment = Payment(node.url, redis_url, namespace, tmp_path)
    yield payment
    payment.close()


def test_what_was_confirmed_survives_the_death_of_the_broker_and_the_worker_goes_on(
    node: RabbitNode, payment: Payment
) -> None:
    worker = payment.worker("--pool", "threads")
    confirmed: list[int] = []
    stop = threading.Event()

    def publish() -> None:
        number = 0
        while not stop.wait(0.002):
            number += 1
            try:
                payment.app.publish(OrderPlaced(number=number))
            except PublishError:
                continue
            confirmed.append(number)

    thread = threading.Thread(target=publish)
    thread.start()
    eventually(lambda: len(payment.noted("done")) > 50)
    node.kill()
    before = len(confirmed)
    node.start()
    eventually(lambda: len(confirmed) > before + 50)
    stop.set()
    thread.join()

    eventually(lambda: set(confirmed) <= set(payment.noted("done")), reason="everything confirmed is handled")
    # Nothing was handled twice, whatever was delivered twice.
    assert len(payment.noted("done")) == len(set(payment.noted("done")))
    assert worker.process.poll() is None


def test_a_queue_that_was_made_just_before_the_broker_died_is_there_with_what_was_confirmed(
    node: RabbitNode, payment: Payment
) -> None:
    # The last one is the one that RabbitMQ forgets.
    names = [payment.queue, f"{payment.namespace}.payment.last"]
    exchange = payment.app.runtime.topology.exchange
    queues = [SteadyQueue(name, exchange, "order.placed", queue_arguments=HANDLER_QUEUE) for name in names]
    with payment.app.connection_for_write() as connection:
        for queue in queues:
            queue(connection.default_channel).declare()
        envelope = payment.app.publish(OrderPlaced())

        node.kill()

    node.start()
    with payment.app.connection_for_read() as connection:
        connection.connect()
        connection.connection.transport.sock.settimeout(DEADLINE)
        found = [queue(connection.default_channel).get(no_ack=True) for queue in queues]
    assert [message and message.headers["id"] for message in found] == [envelope.id] * 2


def test_a_queue_without_a_leader_is_named_and_after_an_election_the_worker_goes_on(
    node: RabbitNode, payment: Payment
) -> None:
    worker = payment.worker("--pool", "threads")
    letters = f"{payment.namespace}.payment.dead_letters"

    # What RabbitMQ before 4.3 does when it starts and does not find a queue in its list.
    node.control("eval", BEGIN_AGAIN.replace("NAME", letters))
    node.control("close_all_connections", "test")
    worker.wait_for(f"queue {letters} does not answer")
    # The way out that docs/deployment.md names.
    node.control("eval", f"ra:trigger_election({{'%2F_{letters}', node()}}).")
    payment.app.publish(OrderPlaced(number=1))

    assert eventually(lambda: payment.noted("done") == [1])
    assert set(re.findall(r"queue (\S+) does not answer", worker.log())) == {letters}


def test_a_broker_without_memory_is_an_error_in_bounded_time_that_says_so(
    node: RabbitNode, payment: Payment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "TIMEOUT", 1.0)
    monkeypatch.setattr(confirms, "TIMEOUT", 1.0)
    payment.app.publish(OrderPlaced())

    node.control("set_vm_memory_high_watermark", "0.00001")
    try:
        began_at = time.monotonic()
        with pytest.raises(PublishError, match=r"order\.placed ORD-1.*accepts nothing \(connection\.blocked\)"):
            payment.app.publish(OrderPlaced(), subject="ORD-1")
        seconds = time.monotonic() - began_at
    finally:
        node.control("set_vm_memory_high_watermark", "0.4")

    assert seconds < DEADLINE / 2
    payment.app.publish(OrderPlaced())


def test_one_message_that_is_too_large_for_the_broker_is_named_and_the_others_arrive(
    node: RabbitNode, payment: Payment, monkeypatch: pytest.MonkeyPatch
) -> None:
    # RabbitMQ 4 reads it from a persistent term.
    limit = "application:set_env(rabbit, max_message_size, %d), persistent_term:put(max_message_size, %d)."
    node.control("eval", limit % (2000, 2000))
    try:
        with pytest.raises(
            PublishError, match=r"1 of 5 messages, such as 'order\.placed x+': PRECONDITION_FAILED"
        ) as e:
            payment.app.publish_many(OrderPlaced(number=n).about("x" * 3000 if n == 2 else "ORD") for n in range(5))
    finally:
        node.control("eval", limit % (134217728, 134217728))

    assert [envelope.data["number"] for envelope in e.value.confirmed] == [0, 1, 3, 4]
    assert [envelope.data["number"] for envelope in e.value.unconfirmed] == [2]


def test_a_handler_that_outlasts_consumer_timeout_runs_once_and_the_worker_goes_on(
    node: RabbitNode, payment: Payment
) -> None:
    # The node loses patience after 3 seconds, and looks every half.
    worker = payment.worker("--pool", "threads")

    payment.app.publish(OrderPlaced(number=1, seconds=7))
    # Before 4.3 RabbitMQ closes the channel; since then it cancels the one consumer.
    told = "delivery acknowledgement on channel", "has cancelled the consumer of queue"
    eventually(lambda: any(text in worker.log() for text in told), reason="the worker hears of it")
    eventually(lambda: payment.noted("done") == [1])
    payment.app.publish(OrderPlaced(number=2))

    assert eventually(lambda: payment.noted("done") == [1, 2])
    assert payment.noted("begun") == [1, 2]
    assert worker.process.poll() is None


def test_a_broker_that_stays_away_is_an_error_in_bounded_time(node: RabbitNode, payment: Payment) -> None:
    payment.app.publish(OrderPlaced())
    node.kill()
    try:
        began_at = time.monotonic()
        with pytest.raises(PublishError, match="refused"):
            payment.app.publish(OrderPlaced())
        assert time.monotonic() - began_at < sum(publisher.PAUSE_SECONDS) + DEADLINE / 2
    finally:
        node.start()
    payment.app.publish(OrderPlaced())
