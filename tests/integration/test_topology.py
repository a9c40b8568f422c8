"""Deployments with real workers: queues that are there before the first start, and a handler that is worked off."""

import json
import os

from tests.integration.orders import OrderCancelled, OrderPlaced
from tests.integration.workers import Payment
from tests.nursery import run_choreo
from tests.waiting import eventually


def choreo(payment: Payment, *arguments: str, patterns: str = "") -> tuple[int, str]:
    """Run a command that may read the code of the service. Returns its exit code, and what it printed."""
    place = ["--broker", payment.broker, "--store", payment.settings["choreo_store_url"]]
    environment = os.environ | {
        "CHOREO_TEST_SETTINGS": json.dumps(payment.settings),
        "CHOREO_TEST_BROKER": payment.broker,
        "CHOREO_TEST_PATTERNS": patterns,
    }
    return run_choreo(*arguments, *place, "--namespace", payment.namespace, environment=environment)


def test_a_first_deployment_loses_nothing_and_a_handler_is_worked_off_before_it_is_removed(payment: Payment) -> None:
    code = ("--code", payment.module)
    exit_code, said = choreo(payment, "topology", "plan", *code)
    assert exit_code == 3, said
    assert f"+ bind    {payment.queue}  from order.placed" in said
    exit_code, said = choreo(payment, "topology", "apply", *code, patterns="order.cancelled")
    assert exit_code == 0, said
    payment.app.publish(OrderPlaced(number=1))
    payment.app.publish(OrderCancelled())

    old = payment.worker(patterns="order.cancelled", name="old")

    assert eventually(lambda: payment.noted("done")) == [1]
    assert eventually(lambda: payment.noted("watched")) == [0]
    # The next version has no watch_order.
    gone = "payment.watch_order"
    exit_code, said = choreo(payment, "topology", "apply", *code)
    assert exit_code == 0, said
    assert "1 live worker still declares it" in said
    exit_code, said = choreo(payment, "topology", "retire", gone, "--yes")
    assert exit_code == 1
    assert f"{gone} is declared by payment.old@" in said

    retirement = payment.app.runtime.retirements.retire(gone, drain=True)
    assert next(retirement).owners
    before = payment.app.publisher.unheard.total()
    payment.app.publish(OrderCancelled())
    assert payment.app.publisher.unheard.total() == before + 1
    assert old.stop() == 0
    payment.worker(name="new")
    *_, left = retirement

    assert left.is_forgotten
    assert gone not in payment.app.runtime.store.handlers()
