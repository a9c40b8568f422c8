"""A worker's rate limits: which deliveries wait, and what a changed limit does to them."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.events import OrderPlaced
from tests.unit.stage import service

pytestmark = pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
HANDLER = "payment.charge"


class Limited:
    """The consumer of a worker that is never started, with requests that are given to its rate limit."""

    def __init__(self, rate_limit: Any = "1/h") -> None:
        app = service("payment")

        @app.on(OrderPlaced, rate_limit=rate_limit)
        def charge(order: OrderPlaced) -> None: ...

        self.task = app.tasks[HANDLER]
        self.consumer = app.Worker(pool="solo").consumer
        self.begun: list[Any] = []
        self.consumer.on_task_request = self.begun.append

    def receive(self, *ids: str) -> None:
        for unit in ids:
            message = SimpleNamespace(delivery_info={"routing_key": HANDLER})
            request = Request(id=unit, message=message)
            self.consumer._limit_task(request, self.consumer.task_buckets[HANDLER], 1)

    @property
    def ids(self) -> list[str]:
        return [request.id for request in self.begun]


class Request(SimpleNamespace):
    __hash__ = object.__hash__


def test_deliveries_over_the_rate_are_held_and_counted_by_queue() -> None:
    limited = Limited()

    limited.receive("a", "b", "c")

    assert limited.ids == ["a"]
    assert limited.consumer.rates.held() == {HANDLER: 2}
    assert 3000 < limited.consumer.rates.held_for() <= 3600


def test_a_delivery_is_counted_for_the_queue_that_it_was_taken_from() -> None:
    limited = Limited()
    limited.receive("a")
    message = SimpleNamespace(delivery_info={"routing_key": "mail.sent"}, choreo_queue="mail")

    limited.consumer._limit_task(Request(id="b", message=message), limited.consumer.task_buckets[HANDLER], 1)

    assert limited.consumer.rates.held() == {"mail": 1}


def test_a_worker_without_rate_limits_holds_nothing() -> None:
    limited = Limited(rate_limit=None)

    assert limited.consumer.rates.held() == {}
    assert limited.consumer.rates.held_for() == float("inf")


def test_deliveries_that_wait_begin_when_the_limit_is_removed() -> None:
    limited = Limited()
    limited.receive("a", "b", "c")

    limited.task.rate_limit = None
    limited.consumer.reset_rate_limits()

    assert limited.ids == ["a", "b", "c"]
    assert limited.consumer.rates.held() == {}


def test_deliveries_that_wait_follow_a_new_limit_in_their_order() -> None:
    limited = Limited()
    limited.receive("a", "b", "c")

    limited.task.rate_limit = "2/h"
    limited.consumer.reset_rate_limits()

    assert limited.ids == ["a", "b"]
    assert limited.consumer.rates.held() == {HANDLER: 1}
    assert limited.consumer.rates.held_for() <= 1800
