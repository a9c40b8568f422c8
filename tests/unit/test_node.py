"""What a service's worker program refuses to run on, and what it does at its start."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery._state import _set_task_join_will_block
from celery.apps.worker import Worker
from celery.concurrency.solo import TaskPool
from celery.exceptions import ImproperlyConfigured

from tests.unit.events import OrderPlaced
from tests.unit.stage import service


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """A worker that is made tells Celery that results cannot be waited for in this process."""
    yield
    _set_task_join_will_block(False)


@pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
def test_garbage_is_not_looked_for_in_what_stays_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = service("payment").Worker(pool="solo")
    monkeypatch.setattr(Worker, "on_start", lambda _: None)

    worker.on_start()
    try:
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


@pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
def test_the_eventlet_pool_is_refused_with_a_way_out() -> None:
    eventlet = type("TaskPool", (TaskPool,), {"__module__": "celery.concurrency.eventlet"})

    with pytest.raises(ImproperlyConfigured, match="--pool gevent or threads"):
        service("payment").Worker(pool=eventlet)


@pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
@pytest.mark.parametrize(
    "promise",
    [
        {"acks_late": False},
        {"reject_on_worker_lost": False},
        {"retry_on_worker_lost": True},
        {"acks_on_failure": False},
        {"acks_on_timeout": True},
    ],
)
def test_an_annotation_that_would_lose_events_is_refused_with_a_way_out(promise: dict[str, bool]) -> None:
    (name,) = promise
    app = service("payment")
    app.conf.task_annotations = {"*": {"rate_limit": "5/s"} | promise}

    with pytest.raises(ImproperlyConfigured, match=f"task_annotations sets {name} = .* instead of"):
        app.Worker(pool="solo")


@pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
def test_other_annotations_hold() -> None:
    app = service("payment")
    app.conf.task_annotations = {"*": {"rate_limit": "5/s"}}

    app.Worker(pool="solo")

    assert app.tasks["payment.dead_letters"].rate_limit == "5/s"


def test_settings_for_ordinary_tasks_leave_a_handlers_promises_alone() -> None:
    app = service("payment")
    app.conf.update(task_retry_on_worker_lost=True, task_acks_on_failure=False, task_acks_late=False)

    task = app.tasks["payment.dead_letters"]
    assert (task.retry_on_worker_lost, task.acks_on_failure, task.acks_late) == (False, True, True)


@pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
def test_a_setting_that_drops_redelivered_runs_is_refused_with_a_way_out(tmp_path: Path) -> None:
    app = service("payment", backend=f"file://{tmp_path}")
    app.conf.worker_deduplicate_successful_tasks = True

    with pytest.raises(ImproperlyConfigured, match="recognises repeated events by itself"):
        app.Worker(pool="solo")


@pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
@pytest.mark.parametrize("limit", ["time_limit", "soft_time_limit"])
def test_a_time_limit_of_a_handler_is_refused_by_a_pool_that_cannot_end_it(limit: str) -> None:
    app = service("payment")

    @app.on(OrderPlaced, **{limit: 5})
    def charge(order: OrderPlaced) -> None: ...

    with pytest.raises(
        ImproperlyConfigured, match=f"^{limit} of payment.charge = 5: the solo pool cannot end a handler"
    ):
        app.Worker(pool="solo")
    app.Worker(pool="prefork")


@pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
def test_a_prefetch_that_quorum_queues_refuse_is_refused_at_the_start() -> None:
    app = service("payment")
    app.conf.worker_detect_quorum_queues = False
    app.Worker(pool="solo")

    app.conf.broker_url = "amqp://localhost"

    with pytest.raises(ImproperlyConfigured, match=r"worker_detect_quorum_queues = False: .* Leave the setting out"):
        app.Worker(pool="solo")


@pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
@pytest.mark.parametrize("accepted", [["pickle"], ["auth"], ["application/x-yaml"], [], None, (), "json", ["jsn"], 5])
def test_content_in_which_no_event_can_be_read_is_refused_with_a_way_out(accepted: object, pool: str) -> None:
    app = service("payment")
    app.conf.accept_content = accepted

    with pytest.raises(ImproperlyConfigured, match=r"accept_content = .*json"):
        app.Worker(pool=pool)


@pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
@pytest.mark.parametrize("time", [10**4299, 2**62, 1e308, float("inf"), "5", None, [], True, -1])
def test_no_message_sets_the_logical_clock_to_what_no_message_could_name(time: object) -> None:
    app = service("payment")
    app.Worker(pool="solo")
    for clock in (app.clock, app.control.mailbox.clock):
        clock.adjust(7)

        clock.adjust(time)

        assert clock.value == 9
        assert clock.adjust(41) == 42


@pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
@pytest.mark.parametrize("accepted", [["json"], ("json", "yaml"), {"application/json"}, ["yaml", "json"]])
def test_content_with_json_is_accepted(accepted: object) -> None:
    app = service("payment")
    app.conf.accept_content = accepted

    app.Worker(pool="solo")
