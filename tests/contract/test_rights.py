"""The least rights of a service on RabbitMQ, as docs/deployment.md prints them: enough for its work, and no more."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from amqp.exceptions import AccessRefused

from choreo import PublishError, Service
from choreo.events.message import Message
from choreo.operate.access import Ground, Program, rights_of
from tests.servers import rabbitmq_vhost, require_rabbitmq
from tests.unit.events import OrderPlaced, PaymentCharged

DEPLOYMENT = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()


def rights() -> list[str]:
    """The three patterns of the page: to configure, to write and to read."""
    names = re.search(r"^names='(.*)'$", DEPLOYMENT, re.MULTILINE)
    command = re.search(r"^rabbitmqctl set_permissions payment (.*)$", DEPLOYMENT, re.MULTILINE)
    assert names
    assert command
    return [part.strip('"').replace("$names", names[1]) for part in command[1].split()]


def rabbitmqctl(*arguments: str) -> None:
    subprocess.run(["rabbitmqctl", "-q", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    """A virtual host as its owner sees it, and as a user with the rights of the page."""
    server = require_rabbitmq()
    if shutil.which("rabbitmqctl") is None:
        pytest.skip("no rabbitmqctl, which makes users")
    with rabbitmq_vhost(server) as owners:
        vhost, user = owners.rpartition("/")[2], f"payment-{uuid4().hex[:8]}"
        rabbitmqctl("add_user", user, "secret")
        try:
            rabbitmqctl("set_permissions", "-p", vhost, user, *rights())
            place = urlsplit(server)
            yield owners, f"amqp://{user}:secret@{place.hostname}:{place.port or 5672}/{vhost}"
        finally:
            rabbitmqctl("delete_user", user)


def service(name: str, url: str) -> Service:
    app = Service(name, broker=url, choreo_store_url="memory:", config=None, set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    return app


def declare(app: Service) -> None:
    with app.connection_for_write() as connection:
        for queue in app.amqp.queues.values():
            queue(connection.default_channel).declare()


def test_they_let_a_service_declare_its_queues_announce_and_send_retries(urls: tuple[str, str]) -> None:
    app = service("payment", urls[1])

    declare(app)
    announced = app.publish(OrderPlaced(customer_id="alice"), "ORD-1")
    app.publisher.send([Message.carrying(announced, exchange="", routing_key="payment.charge")])

    with app.connection_for_read() as connection:
        queue = app.amqp.queues["payment.charge"](connection.default_channel)
        # One of the two may be there twice: it is sent again if the answer is slow.
        assert len(list(takewhile(bool, (queue.get(no_ack=True) for _ in range(8))))) >= 2


def test_they_keep_a_service_from_reading_the_queues_of_another(urls: tuple[str, str]) -> None:
    owners, payments = urls
    declare(service("order", owners))
    app = service("payment", payments)

    with app.connection_for_read() as connection, pytest.raises(AccessRefused, match=r"queue 'order\.charge'"):
        connection.default_channel.basic_get("order.charge")


def test_they_do_not_keep_it_from_announcing_what_is_not_its_own_as_the_page_on_security_says(
    urls: tuple[str, str],
) -> None:
    owners, payments = urls
    declare(service("order", owners))
    app = service("payment", payments)

    app.publish(PaymentCharged(), "ORD-1")
    forged = app.publish(OrderPlaced(customer_id="alice"), "ORD-1")
    app.publisher.send([Message.carrying(forged, exchange="", routing_key="order.charge")])

    with service("order", owners).connection_for_read() as connection:
        assert connection.default_channel.basic_get("order.charge", no_ack=True) is not None


def test_strict_rights_let_a_service_announce_only_the_types_that_it_declares(urls: tuple[str, str]) -> None:
    owners, payments = urls
    vhost, user = owners.rpartition("/")[2], urlsplit(payments).username or ""
    ground = Ground(is_rabbitmq=True)
    (rights, *_) = rights_of(ground, [Program("payment", ["payment.charged"], ["order.placed"])], strict=True)
    app = service("payment", payments)
    declare(service("order", owners))
    rabbitmqctl("set_topic_permissions", "-p", vhost, user, *rights.topics)
    try:
        declare(app)
        app.publish(PaymentCharged(), "ORD-1")

        with pytest.raises(PublishError):
            app.publish(OrderPlaced(customer_id="alice"), "ORD-1")
    finally:
        rabbitmqctl("clear_topic_permissions", "-p", vhost, user)
        app.publisher.close()
