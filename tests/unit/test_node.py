"""What a service's worker program refuses to run on, and what it does at its start."""

import gc

import pytest
from celery.apps.worker import Worker
from celery.concurrency.solo import TaskPool
from celery.exceptions import ImproperlyConfigured

from tests.unit.stage import service


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
