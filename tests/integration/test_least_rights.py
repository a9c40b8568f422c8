"""A Redis user with the rights that docs/deployment.md lists, and no others, is enough for a service."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from choreo.local.server import EmbeddedServer
from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import DEADLINE, eventually

DOCS = Path(__file__).parents[2] / "docs" / "deployment.md"


def rules() -> list[str]:
    """The rules in the docs, for the key prefix ``shop:``."""
    (found,) = re.findall(r"^ACL SETUSER shop (.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    return [word for line in found.splitlines() for word in line.partition("#")[0].split() if word != "\\"]


@pytest.fixture(params=[True, False], ids=["lane on", "lane off"])
def payment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Payment, Any, dict[str, Any]]]:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as root:
        # The worker of this test also keeps a notebook.
        root.execute_command(
            "ACL", "SETUSER", "shop", *rules(), ">secret", "~t1:*", "&shop:/0.t1.choreo.control.pidbox"
        )
        url = f"redis://shop:secret@127.0.0.1:{server.port}/0"
        settings = {"broker_transport_options": {"global_keyprefix": "shop:"}, "choreo_fast_lane": request.param}
        payment = Payment(url, url, "t1", tmp_path)
        payment.app.conf.update(settings)
        yield payment, root, settings
        payment.close()


def test_the_least_rights_are_enough(payment: tuple[Payment, Any, dict[str, Any]]) -> None:
    service, root, settings = payment
    with service.worker(**settings) as worker:
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
