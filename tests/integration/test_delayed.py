"""Delayed events that are due when the first worker starts."""

from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually


def test_a_due_event_waits_until_the_queues_of_the_first_worker_exist(payment: Payment) -> None:
    payment.app.publish(OrderPlaced(number=1), delay=0.1)

    # Several looks of a clock long.
    payment.worker("--pool", "threads", dawdles=2)

    eventually(lambda: payment.noted("done") == [1])
