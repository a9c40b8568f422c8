"""The queues that a worker does not consume: see also tests/integration/test_bindings.py."""

from collections.abc import Iterator
from contextlib import contextmanager

import amqp
import pytest

from choreo import Envelope, Service
from choreo.broker.queue import HandlerQueue
from choreo.worker.unconsumed import declare_unconsumed
from tests.unit.stage import service


class Connection:
    """A connection without a broker."""

    channel_errors = (amqp.ChannelError,)

    @contextmanager
    def channel(self) -> Iterator[None]:
        yield None


@pytest.fixture
def app() -> Service:
    app = service("payment")
    for name in ("charge", "refund", "audit"):

        @app.on(f"order.{name}", name=name)
        def handle(event: Envelope) -> None: ...

    return app


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queues that were declared. RabbitMQ refuses that of refund."""
    found: list[str] = []

    def declare(queue: HandlerQueue) -> str:
        if queue.name == "payment.refund":
            raise amqp.AccessRefused("ACCESS_REFUSED")
        found.append(queue.name)
        return queue.name

    monkeypatch.setattr(HandlerQueue, "__call__", lambda queue, *_: queue)
    monkeypatch.setattr(HandlerQueue, "declare", declare)
    return found


def test_a_worker_that_consumes_every_queue_declares_none_of_them_twice(app: Service, declared: list[str]) -> None:
    declare_unconsumed(app, Connection())

    assert declared == []


def test_a_refusal_is_logged_and_the_other_queues_are_declared(
    app: Service, declared: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    app.amqp.queues.select(["payment.charge"])

    declare_unconsumed(app, Connection())

    assert sorted(declared) == ["payment.audit", "payment.dead_letters"]
    assert "queue payment.refund, which this worker does not consume, may miss events" in caplog.text
