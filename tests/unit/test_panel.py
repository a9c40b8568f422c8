"""Remote control commands that could do nothing say so, in place of Celery's "OK"."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.worker.control import Panel

from choreo import Envelope
from choreo.store.pauses import Pause
from choreo.worker import panel
from choreo.worker.control import LOOK
from tests.unit.stage import service


class State:
    """What Celery hands to a command: the app and its consumer, which notes what it is told to call."""

    def __init__(self, app: Any, pool: type) -> None:
        self.app = app
        self.called: list[Any] = []
        self.consumer = SimpleNamespace(
            pool=pool.__new__(pool),
            call_soon=lambda *call: self.called.append(call),
            update_strategies="update_strategies",
            add_task_queue="add_task_queue",
            cancel_task_queue="cancel_task_queue",
        )


def state(pool: type = PreforkPool, **options: Any) -> State:
    app = service()

    @app.on("order.placed")
    def charge(event: Envelope) -> None: ...

    return State(app, pool)


@pytest.mark.parametrize("command", ["add_consumer", "cancel_consumer"])
def test_a_queue_that_the_service_does_not_have_is_refused(command: str):
    assert panel
    made = state()

    answer = Panel.data[command](made, "payment.chrge")

    assert answer == {
        "error": "payment has no queue 'payment.chrge'. Its queues are payment, payment.charge, payment.dead_letters."
    }
    assert made.called == []
    assert "ok" in Panel.data[command](made, queue="payment.charge")
    assert len(made.called) == 1


@pytest.mark.parametrize(("pool", "name"), [(SoloPool, "solo"), (ThreadPool, "threads")])
def test_a_time_limit_is_refused_where_nothing_enforces_it(pool: type, name: str):
    made = state(pool)

    answer = Panel.data["time_limit"](made, task_name="payment.charge", hard=10, soft=5)

    assert answer["error"].startswith(f"the {name} pool cannot end a handler")
    assert made.app.tasks["payment.charge"].time_limit is None


def test_a_time_limit_holds_for_the_next_run():
    made = state()

    assert "ok" in Panel.data["time_limit"](made, task_name="payment.charge", hard=10, soft=5)

    assert made.app.tasks["payment.charge"].time_limit == 10
    assert made.called == [("update_strategies",)]
    assert "error" in Panel.data["time_limit"](made, task_name="payment.chrge", hard=10)


def test_a_worker_of_another_app_is_left_alone():
    made = State(Celery("plain", set_as_current=False), SoloPool)

    assert "ok" in Panel.data["add_consumer"](made, "any")
    assert made.called[0][:2] == ("add_task_queue", "any")


@pytest.mark.parametrize("command", ["add_consumer", "cancel_consumer"])
def test_a_change_of_the_consumed_queues_is_reported_after_it_has_happened(command: str) -> None:
    changed = state()
    changed.consumer.controller = SimpleNamespace(presence=SimpleNamespace(wake="wake"))

    Panel.data[command](changed, queue="payment.charge")

    # Twice soon: Celery calls what is called soon in no order.
    assert changed.called[-1] == (changed.consumer.call_soon, "wake")


def test_a_wake_up_has_the_worker_look_at_the_pauses_and_tells_those_it_knows():
    made, woken = state(), []
    pauses = {"payment.charge": Pause("payment.charge", reason="gateway down")}
    keeper = SimpleNamespace(wake=lambda: woken.append(1), pauses=pauses)
    made.consumer.controller = SimpleNamespace(pauses=keeper)

    (told,) = Panel.data[LOOK](made)

    assert told.startswith("payment.charge is paused since")
    assert woken == [1]

    made.consumer.controller = SimpleNamespace()
    assert Panel.data[LOOK](made) == []
