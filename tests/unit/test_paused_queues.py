"""What a worker does with the queues of paused handlers: its consumer is kombu's, on a broker in memory."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.worker import state
from kombu import Connection, Consumer
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.utils.limits import TokenBucket

from choreo import Service
from choreo.broker.incoming import UNCOUNTED
from choreo.worker.batches import Batches
from choreo.worker.paused_queues import PausedQueues
from choreo.worker.rates import Rates
from choreo.worker.unbegun import take_back
from tests.unit.events import OrderPlaced, PaymentCharged
from tests.unit.stage import service

CHARGE, REFUND = "payment.charge", "payment.refund"


def make_service() -> Service:
    app = service("payment")

    @app.on(OrderPlaced, rate_limit="100/s")
    def charge(order: OrderPlaced) -> None: ...

    @app.on(PaymentCharged)
    def refund(charged: PaymentCharged) -> None: ...

    app.finalize()
    return app


class Celerys:
    """Celery's consumer, as far as `PausedQueues` needs it."""

    connection_errors = ()
    ignores_rates = False
    qos_global = True
    initial_prefetch_count = 8

    def __init__(self) -> None:
        self.app = make_service()
        self.controller = SimpleNamespace(pauses=SimpleNamespace(shares={}), presence=None, semaphore=None)
        self.task_buckets: dict[str, Any] = {}
        self.rates, self.pool, self.resets = Rates(self.task_buckets), None, 0
        self.handled: list[Any] = []
        self.batches = Batches(self, self.handled.append)
        queues = [self.app.amqp.queues[name] for name in (CHARGE, REFUND)]
        self.task_consumer = Consumer(Connection("memory://").channel(), queues, on_message=self.handled.append)
        self.paused = PausedQueues(self)

    def reset_rate_limits(self) -> None:
        self.resets += 1

    def share(self, **shares: float) -> None:
        self.controller.pauses.shares = {f"payment.{name}": share for name, share in shares.items()}

    @property
    def consumed(self) -> list[str]:
        return [name for name in (CHARGE, REFUND) if self.task_consumer.consuming_from(name)]


@pytest.fixture
def consumer() -> Celerys:
    return Celerys()


def begun(consumer: Celerys) -> Celerys:
    consumer.paused.connect()
    consumer.task_consumer.consume()
    consumer.paused.follow()
    return consumer


def test_a_connection_never_consumes_the_queue_of_a_paused_handler(consumer):
    consumer.share(charge=0.0)
    consumer.paused.connect()
    consumer.task_consumer.consume()

    assert consumer.consumed == [REFUND]
    assert consumer.paused.kept == {CHARGE}

    consumer.paused.follow()
    assert consumer.consumed == [REFUND]
    consumer.share()
    consumer.paused.follow()
    assert consumer.consumed == [CHARGE, REFUND]
    assert consumer.paused.kept == frozenset()


def test_the_next_connection_holds_the_same_queues_back(consumer):
    begun(consumer)
    consumer.share(refund=0.0)
    consumer.paused.follow()
    assert consumer.consumed == [CHARGE]

    consumer.task_consumer = Consumer(
        Connection("memory://").channel(), [consumer.app.amqp.queues[name] for name in (CHARGE, REFUND)]
    )
    begun(consumer)

    assert consumer.consumed == [CHARGE]


def message_from(queue: str, back: list[Any]) -> Any:
    return SimpleNamespace(
        choreo_queue=queue, delivery_info={}, reject_log_error=lambda *_, requeue: back.append((queue, requeue))
    )


def test_what_arrives_while_the_queue_is_being_cancelled_is_given_back_and_not_begun(consumer, monkeypatch):
    begun(consumer)
    back: list[Any] = []
    cancel = consumer.task_consumer.channel.basic_cancel

    def cancelling(tag: str) -> None:
        for queue in (CHARGE, REFUND):
            consumer.task_consumer.on_message(message_from(queue, back))
        cancel(tag)

    monkeypatch.setattr(consumer.task_consumer.channel, "basic_cancel", cancelling)
    consumer.share(charge=0.0)
    consumer.paused.follow()

    assert back == [(CHARGE, UNCOUNTED)]
    assert [message.choreo_queue for message in consumer.handled] == [REFUND]
    assert consumer.task_consumer.on_message == consumer.handled.append, "the gate is gone"


def test_a_slowed_handler_has_its_share_as_its_rate_limit_and_its_own_again_when_it_is_resumed(consumer):
    begun(consumer)
    task = consumer.app.tasks[CHARGE]

    consumer.share(charge=2.5)
    consumer.paused.follow()
    assert (task.rate_limit, consumer.resets) == (2.5, 1)
    assert consumer.consumed == [CHARGE, REFUND]

    consumer.share(charge=1.25)
    consumer.paused.follow()
    assert (task.rate_limit, consumer.resets) == (1.25, 2)

    consumer.share(charge=0.0)
    consumer.paused.follow()
    assert consumer.consumed == [REFUND]
    consumer.share()
    consumer.paused.follow()
    assert task.rate_limit == "100/s"
    assert consumer.consumed == [CHARGE, REFUND]


def test_where_rate_limits_are_disabled_a_slowed_handler_is_stopped(consumer, caplog):
    consumer.ignores_rates = True
    consumer.share(charge=2.5)
    begun(consumer)

    assert consumer.consumed == [REFUND]
    assert "payment.charge: worker_disable_rate_limits is set, so this worker stops it altogether" in caplog.text


@pytest.mark.parametrize(("share", "prefetch"), [(0.01, 1), (0.05, 3), (100.0, 8)])
def test_a_worker_on_rabbitmq_holds_as_many_deliveries_as_a_minute_needs(consumer, monkeypatch, share, prefetch):
    consumer.qos_global = False
    begun(consumer)
    rabbitmq = SimpleNamespace(Channel=type(consumer.task_consumer.channel))
    monkeypatch.setattr("choreo.worker.paused_queues.amqp", rabbitmq)
    asked: list[int] = []
    monkeypatch.setattr(consumer.task_consumer.channel, "basic_qos", lambda _, count, __: asked.append(count))

    consumer.share(charge=share)
    consumer.paused.follow()

    assert asked == [prefetch, 8], "the last one is for the other queues"


# -- taking back -----------------------------------------------------------------------------------------------------


class Request:
    """Celery's request for a delivery from a queue."""

    def __init__(self, queue: str, begun: list[Any]) -> None:
        self.name = queue
        self.id, self.message = f"{queue}-{id(self)}", SimpleNamespace(choreo_queue=queue)
        self._begun = begun
        state.task_reserved(self)

    def run(self, *_: Any) -> None:
        self._begun.append(self)

    def on_success(self, *_: Any) -> None: ...


@pytest.fixture
def reserved():
    begun: list[Any] = []
    made: list[Request] = []

    def make(queue: str) -> Request:
        made.append(Request(queue, begun))
        return made[-1]

    make.begun = begun
    yield make
    for request in made:
        state.task_ready(request)


@pytest.mark.parametrize("way", ["celerys", "fast"])
def test_what_waits_for_a_free_thread_is_taken_back_and_the_others_run_in_order(consumer, reserved, way):
    pool = consumer.pool = ThreadPool(1)
    busy, go_on = threading.Event(), threading.Event()
    pool.executor.submit(lambda: (busy.set(), go_on.wait(60)))
    busy.wait(60)
    requests = [reserved(queue) for queue in (CHARGE, REFUND, CHARGE, REFUND)]
    for request in requests:
        if way == "fast":
            pool.on_apply(lambda one: one.run(), (request,), callback=lambda *_: None)
        else:
            pool.on_apply(request.run, ("name", request.id), {}, callback=request.on_success)

    taken = take_back(consumer, CHARGE)
    go_on.set()
    pool.executor.shutdown()

    assert taken == [requests[0], requests[2]]
    assert reserved.begun == [requests[1], requests[3]]
    assert not state.reserved_requests & set(taken)


def test_what_runs_is_not_taken_back(consumer, reserved):
    consumer.pool = ThreadPool(1)
    request = reserved(CHARGE)
    state.task_accepted(request)

    assert take_back(consumer, CHARGE) == []


def test_what_waits_for_a_free_child_is_taken_back_and_the_others_keep_their_order(consumer, reserved):
    semaphore = consumer.controller.semaphore = LaxBoundedSemaphore(0)
    requests = [reserved(queue) for queue in (CHARGE, REFUND, CHARGE, REFUND)]
    for request in requests:
        semaphore.acquire(Request.run, request)

    assert take_back(consumer, CHARGE) == [requests[0], requests[2]]
    semaphore.release()
    semaphore.release()
    semaphore.release()
    assert reserved.begun == [requests[1], requests[3]]


def test_what_waits_for_its_rate_is_taken_back(consumer, reserved):
    bucket = consumer.task_buckets[CHARGE] = TokenBucket(0.001)
    consumer.rates.changed()
    requests = [reserved(queue) for queue in (CHARGE, "payment", CHARGE)]
    for request in requests:
        bucket.add((request, 1))

    assert take_back(consumer, CHARGE) == [requests[0], requests[2]]
    assert [request for request, _ in bucket.contents] == [requests[1]]


def test_the_jobs_of_this_pythons_executor_are_as_expected():
    executor = ThreadPoolExecutor(1)
    go_on = threading.Event()
    executor.submit(go_on.wait, 60)
    executor.submit(print, 1, end="")
    job = executor._work_queue.get()
    go_on.set()
    executor.shutdown()

    assert hasattr(job, "task") or (job.fn, job.args, job.kwargs) == (print, (1,), {"end": ""})
