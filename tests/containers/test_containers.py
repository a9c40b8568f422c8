"""Two services and their broker in containers (or local processes, see conftest.py): what breaks, and comes back."""

from collections.abc import Callable

import pytest
from pytest_celery import CeleryTestSetup, CeleryTestWorker

from choreo import Reason
from tests.waiting import eventually

# Where there is a Docker engine, the first test builds the image.
pytestmark = pytest.mark.timeout(900)

Order = Callable[[str, str], None]


def test_each_worker_becomes_ready_and_answers_the_probe_of_docker_compose(
    celery_setup: CeleryTestSetup, kitchen: CeleryTestWorker, counter: CeleryTestWorker
) -> None:
    assert celery_setup.ready(docker=True)

    for worker in (kitchen, counter):
        code, said = probe(worker, f"{worker.worker_name}@$HOSTNAME")
        assert code == 0, said
        service, _, host = worker.hostname().partition("@")
        assert f"{service}@{service}.{host}: OK" in said

    code, said = probe(kitchen, "nobody@$HOSTNAME", timeout=1)
    assert code != 0
    assert "No nodes replied" in said


def test_one_event_reaches_both_services(kitchen: CeleryTestWorker, counter: CeleryTestWorker, order: Order) -> None:
    order("soup", "ORD-1")

    kitchen.container.wait_for_log("served ORD-1")
    counter.container.wait_for_log("noted ORD-1")


def test_an_event_comes_back_when_its_worker_is_killed(
    celery_setup: CeleryTestSetup, kitchen: CeleryTestWorker, order: Order
) -> None:
    order("roast", "ORD-2")
    kitchen.container.wait_for_log("cooking ORD-2")

    kitchen.kill()
    assert kitchen.container.status == "exited"
    open_oven(celery_setup, "ORD-2")
    kitchen.restart()

    kitchen.container.wait_for_log("served ORD-2")
    assert kitchen.logs().count("cooking ORD-2") == 2
    assert kitchen.logs().count("served ORD-2") == 1


def test_a_broker_that_restarts_keeps_events_and_its_workers_go_on(
    celery_setup: CeleryTestSetup, kitchen: CeleryTestWorker, counter: CeleryTestWorker, order: Order
) -> None:
    stopped = kitchen.logs().count("Warm shutdown")
    counter.kill()
    order("soup", "ORD-3")
    kitchen.container.wait_for_log("served ORD-3")

    celery_setup.broker.restart()
    order("soup", "ORD-4")

    kitchen.container.wait_for_log("served ORD-4")
    assert kitchen.logs().count("Warm shutdown") == stopped
    counter.restart()
    counter.container.wait_for_log("noted ORD-3")
    counter.container.wait_for_log("noted ORD-4")


def test_a_failure_is_retried_and_one_that_stays_becomes_a_dead_letter(
    celery_setup: CeleryTestSetup, kitchen: CeleryTestWorker, order: Order
) -> None:
    order("souffle", "ORD-5")
    order("unicorn", "ORD-6")

    kitchen.container.wait_for_log("cooking ORD-5, attempt 2")
    kitchen.container.wait_for_log("served ORD-5")
    kitchen.container.wait_for_log("kitchen.cook could not handle dish.ordered ORD-6")
    (letter,) = celery_setup.app.dead_letters.find("kitchen")
    assert (letter.subject, letter.reason, letter.attempts) == ("ORD-6", Reason.REFUSED, 1)
    assert "there are none left" in letter.error


def test_a_worker_finishes_what_it_has_begun_when_it_is_stopped(
    celery_setup: CeleryTestSetup, kitchen: CeleryTestWorker, order: Order
) -> None:
    order("roast", "ORD-7")
    kitchen.container.wait_for_log("cooking ORD-7")

    stopped = kitchen.logs().count("Warm shutdown")
    kitchen.kill("SIGTERM")
    kitchen.container.wait_for_log("Warm shutdown", times=stopped + 1)
    assert "served ORD-7" not in kitchen.logs()
    open_oven(celery_setup, "ORD-7")

    kitchen.container.wait_for_log("served ORD-7")
    eventually(lambda: has_ended(kitchen), reason="the worker ends")
    assert kitchen.container.attrs["State"]["ExitCode"] == 0
    assert kitchen.logs().count("cooking ORD-7") == 1


def probe(worker: CeleryTestWorker, node: str, timeout: int = 10) -> tuple[int, str]:
    """Do what a health check in docker-compose.yml does, inside the container."""
    command = f"celery -A {worker.worker_name} inspect ping -d {node} --timeout {timeout}"
    code, said = worker.container.exec_run(["sh", "-c", command])
    return code, said.decode()


def open_oven(celery_setup: CeleryTestSetup, subject: str) -> None:
    """Let the handler that holds this roast go on."""
    celery_setup.broker.container.client.rpush(f"oven:{subject}", "open")


def has_ended(worker: CeleryTestWorker) -> bool:
    worker.container.reload()
    return worker.container.status == "exited"
