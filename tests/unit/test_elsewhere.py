"""`choreo why-not` and the other namespaces: which of them is a cause, and which only looks like one."""

import pytest

from choreo import Service
from choreo.observe.observer import Observer
from choreo.observe.why_not import WhyNot
from choreo.store.memory import MemoryStore
from choreo.store.presence import Program
from tests.unit.events import OrderPlaced
from tests.unit.stage import Stage, service


class Namespaces(dict[str, MemoryStore]):
    """The stores of several namespaces on one server. Each knows the names of all."""

    def add(self, name: str, store: MemoryStore) -> None:
        self[name] = store
        store.namespaces = lambda: sorted(self)  # type: ignore[method-assign]


@pytest.fixture
def app() -> Service:
    app = service()

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    return app


@pytest.fixture
def stage(app: Service) -> Stage:
    return Stage(app)


@pytest.fixture
def places(stage: Stage) -> Namespaces:
    places = Namespaces()
    places.add("newcomer", stage.store)
    places.add("staging", MemoryStore())
    return places


def announces(store: MemoryStore, name: str) -> None:
    """As the sightings of a program without a worker tell it."""
    store.report(name, Program(name, f"{name}@host", digest="x"), "{}", 0, ["order.placed"])


def why_not(app: Service, places: Namespaces, subject: str = "J1") -> WhyNot:
    app.observe.map()  # the services of the stage tell what they declare
    runtime = app.runtime
    observer = Observer(
        places["newcomer"],
        runtime.queue_of,
        runtime.waiting_in,
        runtime.undeclared,
        runtime.new_top,
        look=runtime.look_at_broker,
        store_in=places.__getitem__,
        namespace="newcomer",
    )
    return observer.why_not("order.placed", subject)


def test_a_stray_event_in_another_namespace_is_no_cause_where_the_type_was_announced_before(app, stage, places) -> None:
    announces(places["newcomer"], "command_line")
    announces(places["staging"], "command_line")

    cause = why_not(app, places).cause

    assert cause.name == "not announced"
    assert cause.text.startswith("order.placed was not announced about J1")
    assert "staging" not in cause.text


def test_an_event_that_nobody_announced_here_is_looked_for_elsewhere(app, stage, places) -> None:
    announces(places["staging"], "shopfront")

    cause = why_not(app, places).cause

    assert cause.name == "another namespace"
    assert cause.text.startswith("shopfront announced order.placed in the namespace 'staging' (since ")
    assert cause.text.endswith("and nobody did in 'newcomer'")


def test_events_elsewhere_that_reached_no_queue_are_counted(app, stage, places) -> None:
    places["staging"].note_unheard("shopfront", {"order.placed": 3})

    assert "shopfront announced order.placed in the namespace 'staging' (3x, " in why_not(app, places).cause.text


def test_a_subject_that_another_namespace_knows_is_named_although_the_type_was_announced_here(
    app, stage, places
) -> None:
    announces(places["newcomer"], "shopfront")
    stage.publish(OrderPlaced(customer_id="alice"), "J2")
    stage.run()
    # What the stage recorded is what the other namespace knows.
    places.add("staging", stage.store)
    places.add("newcomer", MemoryStore(clock=stage.store.now))
    announces(places["newcomer"], "shopfront")

    cause = why_not(app, places, "J2").cause

    assert cause.name == "another namespace"
    assert cause.text == "J2 is known in the namespace 'staging': payment.charge had its events"
