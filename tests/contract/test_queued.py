"""Messages about a subject are found in the queues of a real broker and in the hands of workers, and stay there."""

import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from kombu import Queue

from choreo import Event, Service
from choreo.broker.queued import PAGE, Queued
from choreo.observe.broker_look import BrokerLook
from tests.contract.declared import declared


class OrderPlaced(Event):
    note: str = ""


@pytest.fixture(params=["redis", "rabbitmq"])
def app(request: pytest.FixtureRequest, namespace: str) -> Iterator[Service]:
    url = request.getfixturevalue(f"{request.param}_url")
    store = {"choreo_store_url": request.getfixturevalue("redis_url")}
    app = Service("payment", broker=url, config={"choreo_namespace": namespace, **store}, set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    with declared(app):
        yield app


#: Only Redis lets its queues be looked into, and tells who has a message.
ON_REDIS = pytest.mark.parametrize("app", ["redis"], indirect=True)


def look(app: Service, *texts: str) -> BrokerLook:
    return app.runtime.look_at_broker([app.runtime.queue_of("payment.charge")], texts)


def found(app: Service, *texts: str) -> list[Queued]:
    return list(look(app, *texts).messages)


def is_on_redis(app: Service) -> bool:
    return str(app.conf.broker_url).startswith("redis")


def test_a_message_is_found_at_its_place_and_stays(app: Service) -> None:
    events = [app.publish(OrderPlaced(), f"ORD-{number}") for number in range(3)]
    if not is_on_redis(app):
        seen = look(app, "ORD-1")
        assert (seen.is_open, seen.messages) == (False, ())
        assert [depth.count for depth in seen.depths.values()] == [3]
        assert "does not let its queues be looked into" in seen.notes[0]
        return

    for _ in range(2):
        (message,) = found(app, "ORD-1")
        assert (message.position, message.count, message.attempt, message.host) == (2, 3, 1, "")
        assert message.event == events[1]
    assert [message.event.subject for message in found(app, "ORD-0", "ORD-2")] == ["ORD-0", "ORD-2"]
    assert found(app, events[2].id)[0].position == 3
    assert found(app, "ORD-7") == []
    assert found(app, "") == []


@ON_REDIS
def test_a_subject_of_any_letters_is_found(app: Service) -> None:
    for subject in ("Ä-1", 'a "quoted" \\ name', "\u2028"):
        app.publish(OrderPlaced(), subject)

        (message,) = found(app, subject)

        assert message.event.subject == subject


@ON_REDIS
def test_a_long_queue_is_read_page_by_page_and_not_without_end(app: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [OrderPlaced().sealed(**named(number)) for number in range(PAGE + 5)]
    app.publisher.announce(events)

    assert found(app, f"ORD-{PAGE + 4}-")[0].position == PAGE + 5

    monkeypatch.setattr("choreo.broker.queued.MOST", 10)
    assert found(app, f"ORD-{PAGE + 4}-") == []
    assert look(app, "ORD-3-").notes[0].startswith(f"only the first 10 of the {PAGE + 5} messages in ")


def named(number: int) -> dict[str, object]:

    return {
        "id": f"e-{number}",
        "source": "shop",
        "subject": f"ORD-{number}-",
        "cause": None,
        "time": datetime.now(UTC),
    }


@ON_REDIS
def test_a_message_that_a_worker_has_taken_names_the_worker(app: Service) -> None:
    app.publish(OrderPlaced(), "ORD-1")
    taken: list[object] = []
    with app.connection_for_write() as connection:
        queue = app.amqp.queues[app.runtime.queue_of("payment.charge")]
        with connection.Consumer(Queue(queue.name), callbacks=[lambda _, message: taken.append(message)]):
            connection.drain_events(timeout=30)

            (message,) = found(app, "ORD-1")

    assert taken
    assert (message.host, message.pid, message.position) == (socket.gethostname(), os.getpid(), 0)
    assert message.is_holder_alive
    (returned,) = found(app, "ORD-1")
    assert returned.position == 1


@ON_REDIS
def test_a_message_that_is_no_event_is_told_by_its_headers(app: Service) -> None:
    queue = app.runtime.queue_of("payment.charge")
    with app.connection_for_write() as connection:
        headers = {"id": "e-1", "argsrepr": "order.placed ORD-1", "origin": "shop", "retries": "many"}
        connection.Producer().publish(b"\xff", routing_key=queue, headers=headers, content_type="text/plain")

    (message,) = found(app, "ORD-1")

    event = message.event
    assert (event.id, event.type, event.subject, event.source, message.attempt) == (
        "e-1",
        "order.placed",
        "ORD-1",
        "shop",
        1,
    )


def test_a_broker_that_is_away_is_a_note() -> None:
    app = Service("payment", broker="redis://127.0.0.1:1/0", config={}, set_as_current=False)

    seen = app.runtime.look_at_broker(["payment.charge"], ["ORD-1"])

    assert seen.messages == ()
    assert seen.notes[0].startswith("the broker does not answer, so its queues were not looked at: ")
