"""Paused handlers with real workers: nothing is handled, lost or counted, and everything is handled once afterwards."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from choreo.local.server import EmbeddedServer
from tests.integration.orders import OrderCancelled, OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually

CHARGE, REFUND = "payment.charge_customer", "payment.refund"
POOLS = ("solo", "threads", "prefork", "gevent")
#: "apart": the store is on another Redis than the broker. To that it matters where a handler runs, and not in which
#: thread: so one pool of the worker's own process, and one of others. The last ones have the fast lane off.
PLACES = [
    *((pool, broker, True) for pool in POOLS for broker in ("redis", "rabbitmq")),
    *((pool, "apart", True) for pool in ("solo", "prefork")),
    *((pool, "redis", False) for pool in ("solo", "threads")),
]


@pytest.fixture
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    with ExitStack() as stack:
        broker = request.getfixturevalue("rabbitmq_url") if "rabbitmq" in request.node.name else redis_url
        broker = stack.enter_context(EmbeddedServer()).url if "apart" in request.node.name else broker
        payment = Payment(broker, redis_url, namespace, tmp_path, app="pauses_app")
        stack.callback(payment.close)
        yield payment


def publish(payment: Payment, *numbers: int, seconds: float = 0) -> None:
    for number in numbers:
        payment.app.publish(OrderPlaced(number=number, seconds=seconds), f"ORD-{number}")


def waiting(payment: Payment, handler: str = CHARGE) -> int:
    queue = payment.app.runtime.queue_of(handler)
    return payment.app.runtime.waiting_in([queue]).get(queue, 0)


def is_held(payment: Payment, handler: str = CHARGE, *, workers: int = 1) -> bool:
    """True if so many workers live, and hold the queue of this handler back."""
    queue = payment.app.runtime.queue_of(handler)
    live = payment.app.runtime.store.workers("payment")
    return len(live) == workers and all(queue in worker.paused for worker in live)


@pytest.mark.parametrize(("pool", "broker", "lane"), PLACES)
def test_nothing_of_a_paused_handler_is_handled_until_it_is_resumed_and_then_all_once(
    payment: Payment, pool: str, broker: str, lane: bool
) -> None:
    worker = payment.worker("--pool", pool, quiet=True, choreo_fast_lane=lane)
    publish(payment, *range(20), seconds=1)
    eventually(lambda: payment.noted("begun"))

    payment.app.pauses.pause(CHARGE, reason="gateway down")
    if pool in ("solo", "gevent"):
        payment.open()  # it looks at nothing else while a handler has its thread, or its pool is full
    eventually(lambda: is_held(payment))

    # What had not begun is in the queue again at once, and what runs is finished.
    eventually(lambda: waiting(payment) == 20 - len(payment.noted("begun")), 20)
    begun = payment.noted("begun")
    payment.open()
    eventually(lambda: payment.noted("done") == begun)
    publish(payment, *range(20, 30))
    eventually(lambda: len(payment.noted("watched")) == 30)
    assert "charge_customer is paused since" in worker.log()
    assert "gateway down" in worker.log()

    # The next worker begins with the pause.
    assert worker.stop() == 0
    payment.worker("--pool", pool, name="two", quiet=True, choreo_fast_lane=lane)
    eventually(lambda: is_held(payment))
    publish(payment, *range(30, 40))
    eventually(lambda: len(payment.noted("watched")) == 40)
    assert payment.noted("begun") == begun
    assert waiting(payment) == 40 - len(begun)

    payment.app.pauses.resume(CHARGE)
    eventually(lambda: len(payment.noted("done")) >= 40)

    assert payment.noted("done") == payment.noted("begun") == list(range(40))
    assert not payment.app.dead_letters.find()
    assert {run.attempt for run in payment.app.runtime.store.recent(CHARGE, 600)} == {1}
    eventually(lambda: not is_held(payment))


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_what_falls_due_in_a_pause_waits_in_the_queue_and_a_pause_ends_by_itself(payment: Payment, broker: str) -> None:
    payment.worker("--pool", "threads", quiet=True)
    publish(payment, 1000)  # it fails, and is retried a second later
    eventually(lambda: payment.noted("begun") == [1000])

    (done,) = payment.app.pauses.pause(CHARGE, timedelta(seconds=8))
    eventually(lambda: is_held(payment))
    eventually(lambda: waiting(payment) == 1)
    assert payment.noted("begun") == [1000]

    eventually(lambda: payment.noted("done") == [1000])
    assert payment.noted("begun") == [1000, 1000]
    assert done.pause is not None
    assert done.pause.until is not None
    assert payment.noted("at")[-1] >= done.pause.until.timestamp() * 1000
    # A run is recorded with its commit, after the handler has noted what it did.
    eventually(lambda: [run.attempt for run in payment.app.runtime.store.recent(CHARGE, 600)] == [1, 2])
    assert not list(payment.app.pauses)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_the_parts_and_the_deadline_of_a_paused_join_wait_in_its_queue(
    payment: Payment, broker: str, pool: str
) -> None:
    # Two at a time would handle the deadline beside the part before it.
    payment.worker("--pool", pool, "-c", "1", quiet=True)
    payment.app.publish(OrderPlaced(number=1), "ORD-1")
    eventually(lambda: payment.app.joins.find("ORD-1", REFUND))
    deadline = payment.app.joins.get("ORD-1", REFUND).until

    payment.app.pauses.pause(REFUND)
    eventually(lambda: is_held(payment, REFUND))
    payment.app.publish(OrderCancelled(), "ORD-1")
    eventually(lambda: waiting(payment, REFUND) == 2)  # the second part, and then the deadline
    assert payment.app.runtime.store.now() > deadline.timestamp()
    assert payment.noted("refunded") == payment.noted("timed out") == []

    payment.app.pauses.resume(REFUND)
    eventually(lambda: payment.noted("refunded") == [1])
    eventually(lambda: waiting(payment, REFUND) == 0)
    assert payment.noted("timed out") == []


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_two_workers_together_keep_to_the_rate_of_a_slowed_handler_and_others_go_on(
    payment: Payment, broker: str, pool: str
) -> None:
    for name in ("one", "two"):
        payment.worker("--pool", pool, name=name, quiet=True)
    eventually(lambda: len(payment.app.runtime.store.workers("payment")) == 2)
    payment.app.pauses.pause(CHARGE, rate="10/s")
    eventually(lambda: all("slowed to 10/s" in worker.log() for worker in payment.workers))

    publish(payment, *range(60))
    eventually(lambda: len(payment.noted("watched")) == 60)
    assert len(payment.noted("begun")) < 60
    eventually(lambda: len(payment.noted("done")) == 60)

    # By the store's clock. Each worker begins with one event, and the last ones of both need not come together.
    times = payment.noted("at")
    assert 5.0 <= (times[-1] - times[0]) / 1000 <= 30

    payment.app.pauses.pause(CHARGE, rate="1/m")
    eventually(lambda: all("slowed to 1/m" in worker.log() for worker in payment.workers))
    publish(payment, *range(60, 80))
    eventually(lambda: len(payment.noted("watched")) == 80)
    assert len(payment.noted("begun")) <= 62
    payment.app.pauses.resume(CHARGE)
    eventually(lambda: payment.noted("done") == list(range(80)))
    assert not payment.app.dead_letters.find()


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_an_operators_consumers_keep_their_meaning(payment: Payment, broker: str) -> None:
    worker = payment.worker("--pool", "threads", quiet=True)
    control, queue = payment.app.control, payment.app.runtime.queue_of(CHARGE)
    payment.app.pauses.pause(CHARGE)
    eventually(lambda: is_held(payment))

    control.cancel_consumer(queue)
    eventually(lambda: not is_held(payment))  # it is not kept for the end of the pause any more
    payment.app.pauses.resume(CHARGE)
    worker.wait_for(f"{CHARGE} is resumed")
    publish(payment, 1)
    eventually(lambda: payment.noted("watched") == [1])
    assert waiting(payment) == 1

    payment.app.pauses.pause(CHARGE)
    eventually(lambda: len(worker.log().split(f"{CHARGE} is paused")) == 3)
    control.add_consumer(queue)
    eventually(lambda: is_held(payment))
    assert payment.noted("begun") == []
    payment.app.pauses.resume(CHARGE)
    eventually(lambda: payment.noted("done") == [1])


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_an_event_that_is_given_back_again_and_again_is_no_poison(payment: Payment, pool: str) -> None:
    # The events of the other handlers would fill the prefetch, while two wait in the pool.
    payment.worker("--pool", pool, "-Q", payment.queue, quiet=True)
    publish(payment, *range(10), seconds=1)
    eventually(lambda: len(payment.noted("begun")) == 2)

    for _ in range(8):  # more often than `Terms.max_deliveries`
        payment.app.pauses.pause(CHARGE)
        eventually(lambda: is_held(payment) and waiting(payment) == 8)
        payment.app.pauses.resume(CHARGE)
        eventually(lambda: not is_held(payment) and waiting(payment) < 8)

    payment.open()
    eventually(lambda: payment.noted("done") == list(range(10)))
    assert payment.noted("begun") == list(range(10))
    assert not payment.app.dead_letters.find()
