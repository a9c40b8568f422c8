"""What runs and what waits is read from a real broker and a real store, by handler, type and version."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from choreo import Envelope, Event, Service
from choreo.contracts.running import Running, Waiting, look
from choreo.events.message import Message
from choreo.store import Scheduled
from choreo.store.presence import Program
from tests.contract.declared import declared

HANDLER = "payment.charge"


class OrderPlaced(Event):
    note: str = ""


class OrderPlacedV2(Event, type="order.placed", version=2):
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


def seen(app: Service) -> Running:
    return look(app, ["order.placed"])


def test_what_waits_is_counted_by_version(app):
    app.runtime.store.register([HANDLER])
    nothing = seen(app)
    app.publish(OrderPlaced(), "ORD-1")
    app.publish(OrderPlacedV2(), "ORD-2")
    app.publish(OrderPlaced(), "ORD-3")
    app.publish(OrderPlacedV2(), "ORD-4", delay=timedelta(hours=1))
    waiting = app.publish(OrderPlaced(), "ORD-5")
    retry = Message.carrying(Envelope.from_wire(waiting.to_wire()), exchange="", routing_key=HANDLER, retries=1)
    app.runtime.store.schedule(HANDLER, Scheduled("retry:1", retry, 600))

    counts = {(one.version, one.queued, one.scheduled) for one in seen(app).waits(HANDLER, "order.placed")}

    assert not nothing.waiting
    if app.runtime.look_at_broker([], []).is_open:
        assert counts == {(1, 3, 1), (2, 1, 0), (2, 0, 1)}
    else:
        assert counts == {(None, 4, 0), (1, 0, 1), (2, 0, 1)}
        assert any("only the number" in note for note in seen(app).notes)


def test_live_workers_are_told_apart_by_their_versions_and_declarations(app):
    store, described = app.runtime.store, app.describe()
    for name, version in (("a", "1.4"), ("b", "1.4"), ("c", "1.5")):
        program = Program(name, "payment@host", pool="solo", version=version, digest=described.digest)
        store.report("payment", program, described.to_json(), 60.0)

    releases = seen(app).releases

    assert sorted((release.name, release.workers) for release in releases) == [("payment 1.4", 2), ("payment 1.5", 1)]
    assert releases[0].service == described
    assert {model.name for model in releases[0].service.models} == {"OrderPlaced"}


def test_what_waits_is_said_in_words():
    assert str(Waiting(1, queued=2)) == "2 in backlog at v1"
    assert str(Waiting(1, letters=3)) == "0 in backlog, 3 dead letters at v1"
    assert str(Waiting(None, queued=4)) == "4 in backlog of unknown versions"
