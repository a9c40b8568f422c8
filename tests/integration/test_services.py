"""Services hear what they listen to, each by itself; and Celery's own tools work on them."""

import json
import os
import subprocess
import sys
from socket import gethostname
from typing import Any

import pytest

from tests.integration.conftest import PACKAGE, World
from tests.integration.services.words import NobodyInformed, OrderPlaced
from tests.waiting import DEADLINE


def test_one_event_runs_each_subscribed_handler_once_under_its_own_name(world: World, subject):
    world.publish(OrderPlaced(), subject)

    (charge,) = world.done("charged", subject)
    (award,) = world.done("award", subject)
    (thank,) = world.done("thank", subject)
    world.done("count", subject, times=2)

    assert (charge["task"], charge["queue"]) == ("payment.charge", f"{world.namespace}.payment.charge")
    assert (award["task"], award["queue"]) == ("loyalty.award", f"{world.namespace}.loyalty.award")
    assert thank["task"] == "loyalty.thank"
    assert len({charge["pid"], award["pid"]}) == 2


def test_what_follows_from_an_event_knows_its_cause_and_its_story(world: World, subject):
    placed = world.publish(OrderPlaced(), subject)

    (thank,) = world.done("thank", subject)

    assert thank["cause"] == placed.id
    assert thank["story"] == placed.correlation_id
    assert thank["source"] == "payment"


def test_a_pattern_hears_every_event_that_matches_it(world: World, subject):
    world.publish(OrderPlaced(), subject)

    notes = world.done("count", subject, times=2)

    assert sorted(note["type"] for note in notes) == ["order.placed", "payment.charged"]


def test_a_process_that_never_declared_anything_reaches_every_service(world: World, subject):
    # On Redis, a publisher that does not know the exchange would route as if patterns were names.
    script = (
        "import os\n"
        "from choreo import Event, Service\n"
        "class OrderPlaced(Event): pass\n"
        "app = Service('web', config=None, broker=os.environ['BROKER'])\n"
        "app.conf.choreo_namespace = os.environ['NAMESPACE']\n"
        "app.publish(OrderPlaced(), subject=os.environ['SUBJECT'])\n"
    )
    environment = {"BROKER": world.broker_url, "NAMESPACE": world.namespace, "SUBJECT": subject}

    subprocess.run([sys.executable, "-c", script], env={**os.environ, **environment}, check=True, timeout=DEADLINE)

    world.done("charged", subject)
    world.done("award", subject)
    world.done("count", subject, times=2)


def test_an_event_that_nobody_hears_is_fine(world: World, subject):
    world.publish(NobodyInformed(), subject)

    assert world.notes(subject=subject) == []


def test_a_handler_that_returns_nothing_announces_nothing(world: World, subject):
    world.publish(OrderPlaced(behave="quietly"), subject)

    world.done("charged", subject)
    world.settled()

    assert world.notes("thank", subject) == []


def test_a_handler_that_takes_longer_than_the_lease_is_not_run_twice(world: World, subject):
    world.publish(OrderPlaced(behave="longer than the lease"), subject)

    world.done("charged", subject)
    world.settled()

    world.done("charge", subject)
    world.done("thank", subject)


def inspect(world: World, service: str, *commands: str) -> list[dict[str, Any]]:
    """What `celery -A <service> inspect <command>` answers, by node."""
    environment = {**os.environ, **world.platform.environment}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", f"{PACKAGE}.{service}", "inspect", "--json", command],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    answers = [process.communicate(timeout=DEADLINE)[0] for process in running]
    return [json.loads(answer.strip().splitlines()[-1]) for answer in answers]


def test_celerys_inspect_asks_this_service_and_no_other(world: World):
    ping, registered, queues = inspect(world, "payment", "ping", "registered", "active_queues")

    node = f"payment@payment.{gethostname()}"
    assert ping == {node: {"ok": "pong"}}
    assert set(registered) == set(queues) == {node}
    assert {"payment.charge", "payment.dead_letters"} <= set(registered[node])
    assert not any(name.startswith("loyalty.") for name in registered[node])
    assert {queue["name"] for queue in queues[node]} == {
        f"{world.namespace}.{name}" for name in ("payment", "payment.charge", "payment.dead_letters")
    }


@pytest.mark.parametrize("option", ["-Q"])
def test_a_queue_that_the_service_does_not_have_is_refused(world: World, option):
    # It would be made, bound to nothing, and wait for ever.
    environment = {**os.environ, **world.platform.environment}
    command = [sys.executable, "-m", "celery", "-A", f"{PACKAGE}.payment", "worker", option, "payment.chrage"]

    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE)

    assert outcome.returncode != 0
    assert "payment.chrage" in outcome.stderr + outcome.stdout
