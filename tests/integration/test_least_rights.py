"""
A user with the rights that docs/deployment.md lists, or that `choreo topology acl` prints, is enough for a service.

And it can do no more, as far as Redis and RabbitMQ can tell one service from another.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import redis
from amqp.exceptions import AccessRefused

from choreo.local.server import EmbeddedServer
from choreo.operate.access import Ground, Program, Rights, rights_of
from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import DEADLINE, eventually

DOCS = Path(__file__).parents[2] / "docs" / "deployment.md"


def rules() -> list[str]:
    """The rules in the docs, for the key prefix ``shop:``."""
    (found,) = re.findall(r"^ACL SETUSER shop (.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    return [word for line in found.splitlines() for word in line.partition("#")[0].split() if word != "\\"]


def recipe(ground: Ground) -> Rights:
    """The rights of payment, beside another service."""
    return next(one for one in rights_of(ground, [Program("payment"), Program("order")]) if one.user == "payment")


def recipe_of_redis(prefix: str = "shop:", namespace: str = "t1.") -> list[str]:
    return list(recipe(Ground(namespace, prefix, f"choreo:{namespace}".rstrip(".:"))).broker)


#: Rules, and whether the lane is on.
CASES = {
    "page, lane on": (lambda: [*rules(), "&shop:/0.t1.choreo.control.pidbox"], True),
    "recipe, lane on": (recipe_of_redis, True),
    "recipe, lane off": (recipe_of_redis, False),
}


@pytest.fixture(params=CASES)
def payment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Payment, Any, dict[str, Any]]]:
    wanted, lane = CASES[request.param]
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as root:
        # The worker of this test also keeps a notebook.
        root.execute_command("ACL", "SETUSER", "shop", "reset", "on", ">secret", "~t1:*", *wanted())
        url = f"redis://shop:secret@127.0.0.1:{server.port}/0"
        settings = {"broker_transport_options": {"global_keyprefix": "shop:"}, "choreo_fast_lane": lane}
        payment = Payment(url, url, "t1", tmp_path)
        payment.app.conf.update(settings)
        yield payment, root, settings
        payment.close()


def test_the_least_rights_are_enough(payment: tuple[Payment, Any, dict[str, Any]]) -> None:
    service, root, settings = payment
    with service.begin(gossips=True, **settings) as worker:
        worker.wait_for("ready.")
        # The worker is ready a little before it listens to remote control.
        eventually(lambda: service.app.control.ping(timeout=1.0))
        with service.app.connection_for_read() as connection:
            heard: list[Any] = []
            receiver = service.app.events.Receiver(connection, handlers={"*": heard.append})
            with suppress(TimeoutError):
                receiver.capture(limit=1, timeout=DEADLINE)
        service.app.publish(OrderPlaced(number=1, seconds=0))
        service.app.publish(OrderPlaced(number=2, seconds=0), delay=0.1)
        service.app.send_task("nobody.knows", queue="t1.payment")
        eventually(lambda: service.noted("done") == [1, 2])
        (letter,) = eventually(lambda: list(service.app.dead_letters))
        service.app.dead_letters.discard(letter.id)
        service.app.runtime.store.ping()
        list(service.app.joins)
        service.app.backlog()
        overview = service.app.observe.top()
        assert (overview.broker_error, overview.namespaces, len(overview.servers)) == ("", ["t1"], 1)
        assert worker.stop() == 0

    denied = [(entry["object"], entry["reason"]) for entry in root.acl_log()]
    assert denied == []


def test_other_keys_and_channels_are_out_of_reach(payment: tuple[Payment, Any, dict[str, Any]]) -> None:
    service, _, _ = payment
    with redis.Redis.from_url(service.broker) as client:
        for call in (
            lambda: client.get("other:key"),
            lambda: client.publish("other", "x"),
            lambda: client.flushall(),
            lambda: client.config_set("maxmemory", 0),
            lambda: client.keys(),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                call()


def test_in_redis_a_user_reads_no_queue_and_no_state_of_another_service(tmp_path: Path) -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as root:
        root.execute_command("ACL", "SETUSER", "payment", "reset", "on", ">secret", *recipe_of_redis("", ""))
        root.lpush("order.charge", "an event")
        root.set("choreo:{order.charge}:pause", "x")
        with redis.Redis(port=server.port, username="payment", password="secret") as client:
            for call in (
                lambda: client.lrange("order.charge", 0, -1),
                lambda: client.rpop("order.charge"),
                lambda: client.delete("order.charge"),
                lambda: client.get("choreo:{order.charge}:pause"),
                lambda: client.eval("return redis.call('LRANGE', 'order.charge', 0, -1)", 0),
                lambda: client.lpush("payments.charge", "x"),
                # The script that puts one message into one queue names its key.
                lambda: client.eval("return redis.call('LPUSH', KEYS[1], 'x')", 1, "order.charge"),
                lambda: client.config_set("maxmemory", 0),
            ):
                with pytest.raises(redis.exceptions.ResponseError, match=r"NOPERM|[Nn]o permissions"):
                    call()
            # Whoever announces an event does this, also in a script.
            client.eval("return redis.call('LPUSH', 'order.charge', 'another one')", 0)
            client.lpush("payment.charge", "x")
            client.get("choreo:{payment.charge}:pause")
        assert root.llen("order.charge") == 2


def rabbitmqctl(*arguments: str) -> None:
    subprocess.run(["rabbitmqctl", "-q", *arguments], check=True, capture_output=True, timeout=60)


def test_on_rabbitmq_a_worker_works_with_the_rights_of_its_service_and_reads_no_other_queue(
    rabbitmq: str, namespace: str, tmp_path: Path
) -> None:
    if shutil.which("rabbitmqctl") is None:
        pytest.skip("no rabbitmqctl, which makes users")
    place, user = urlsplit(rabbitmq), f"payment-{uuid4().hex[:8]}"
    rights = recipe(Ground(f"{namespace}.", "", f"choreo:{namespace}", is_rabbitmq=True))
    rabbitmqctl("add_user", user, "secret")
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as root:
        root.execute_command("ACL", "SETUSER", "payment", "reset", "on", ">secret", f"~{namespace}:*", *rights.store)
        payment = None
        try:
            rabbitmqctl("set_permissions", "-p", place.path.strip("/"), user, *rights.permissions)
            broker = f"amqp://{user}:secret@{place.hostname}:{place.port or 5672}{place.path}"
            payment = Payment(broker, f"redis://payment:secret@127.0.0.1:{server.port}/0", namespace, tmp_path)
            with payment.worker() as worker:
                payment.app.publish(OrderPlaced(number=1, seconds=0))
                payment.app.publish(OrderPlaced(number=2, seconds=0), delay=0.1)
                eventually(lambda: payment.noted("done") == [1, 2])
                eventually(lambda: payment.app.control.ping(timeout=1.0))
                assert "ACCESS_REFUSED" not in worker.log()
                assert worker.stop() == 0
            with payment.app.connection_for_read() as connection, pytest.raises(AccessRefused, match=r"order\.charge"):
                connection.default_channel.basic_get(f"{namespace}.order.charge")
            assert [entry["object"] for entry in root.acl_log()] == []
        finally:
            if payment is not None:
                payment.close()
            rabbitmqctl("delete_user", user)
