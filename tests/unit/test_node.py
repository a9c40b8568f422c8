"""What a service's worker program refuses to run on."""

import pytest
from celery.concurrency.solo import TaskPool
from celery.exceptions import ImproperlyConfigured

from tests.unit.stage import service


@pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")
def test_the_eventlet_pool_is_refused_with_a_way_out() -> None:
    eventlet = type("TaskPool", (TaskPool,), {"__module__": "celery.concurrency.eventlet"})

    with pytest.raises(ImproperlyConfigured, match="--pool gevent or threads"):
        service("payment").Worker(pool=eventlet)
