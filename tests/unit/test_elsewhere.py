"""`choreo why-not` and the other namespaces: which of them is a cause, and which only looks like one."""

import pytest
from click.testing import CliRunner

from choreo import Service
from choreo.cli import choreo
from choreo.observe.cause import Cause
from choreo.observe.elsewhere import Elsewhere
from choreo.observe.observer import Observer
from choreo.observe.why_not import WhyNot
from choreo.store.memory import MemoryStore
from choreo.store.presence import Program
from tests.unit.events import OrderPlaced, PaymentCharged
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


def why_not(app: Service, places: Namespaces, subject: str = "J1", kind: str = "order.placed") -> WhyNot:
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
    return observer.why_not(kind, subject)


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
    assert cause.text.endswith("and nobody did in the namespace 'newcomer'")


def test_a_stray_event_elsewhere_is_no_cause_where_handlers_announce_or_handle_the_type(app, stage, places) -> None:
    stage.publish(OrderPlaced(customer_id="alice"), "J2")
    stage.run()
    places["staging"].note_unheard("command_line", {"order.placed": 1})

    # The stage publishes without sightings: only the record of runs knows the type.
    cause = why_not(app, places, "ORD-NEVER").cause

    assert cause.name != "another namespace"


def test_of_an_unknown_subject_the_places_are_named_where_its_event_may_have_gone(app, stage, places) -> None:
    announces(places["newcomer"], "shopfront")
    places["staging"].note_unheard("command_line", {"order.placed": 1})
    places.add("", MemoryStore(clock=stage.store.now))
    places[""].note_unheard("shopfront", {"order.placed": 2})

    cause = why_not(app, places, "ORD-NEVER").cause

    assert cause.name == "not announced"
    assert cause.text.endswith("; nothing is known of this subject here or in another namespace")
    asked = next(step for step in cause.do if step.startswith("# was it announced in "))
    assert "the namespace '' (the default) (2x, the last at 00:16:40), the namespace 'staging' (1x, " in asked


def test_a_repair_by_hand_does_not_hide_the_handler_that_announces_a_type() -> None:
    app = service()

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged: ...

    stage = Stage(app)
    stage.store.report(
        "command_line",
        Program("command_line", "command_line@host", digest="x"),
        "{}",
        0,
        ["payment.charged", "order.placed"],
    )

    why = app.observe.why_not("payment.charged", "ORD-1")

    said = [finding.text for finding in why.findings if finding.what == "the command choreo publish"]
    assert said == ["announces it outside of handlers"]
    assert why.findings[0].text == "announced by payment.charge"


def test_events_elsewhere_that_reached_no_queue_are_counted(app, stage, places) -> None:
    places["staging"].note_unheard("command_line", {"order.placed": 3})

    text = why_not(app, places).cause.text

    assert text.startswith("the command choreo publish announced order.placed in the namespace 'staging' (3x, ")


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
    assert cause.do[0] == "choreo --namespace staging trace J2"


def test_an_event_that_reached_no_queue_was_announced(stage, places) -> None:
    stage.store.note_unheard("command_line", {"menu.printed": 1})

    why = why_not(stage.app, places, kind="menu.printed")

    assert why.cause.name == "unheard"
    assert why.cause.text == "menu.printed was announced 1x at 00:16:40 and reached no queue"
    assert why.cause.do[-1] == "choreo map menu.printed"


def test_an_event_that_reached_no_queue_names_the_namespaces_whose_services_hear_it(stage, places) -> None:
    described = stage.app.runtime.describe()
    hearer = Program("w", "payment@host", digest=described.digest)
    places["staging"].report("payment", hearer, described.to_json(), 60)
    places.add("newcomer", MemoryStore(clock=stage.store.now))
    places["newcomer"].note_unheard("command_line", {"order.placed": 2})

    cause = why_not(stage.app, places).cause

    assert cause.text == (
        "order.placed was announced 2x, the last at 00:16:40, and reached no queue; "
        "it is heard in other namespaces: 'staging' (payment)"
    )
    assert cause.do == ("choreo --namespace staging map order.placed",)


def test_of_several_announcers_those_are_named_that_were_seen(stage, places) -> None:
    for name in ("shopfront", "command_line"):
        announces(places["newcomer"], name)

    cause = why_not(stage.app, places).cause

    assert "(the command choreo publish or shopfront announces it outside of handlers)" in cause.text
    assert cause.do == ("# look into the log of shopfront", "choreo map order.placed")


def test_a_place_without_a_service_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    app = service("command_line")
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)

    done = CliRunner().invoke(choreo, ["why-not", "order.placed", "J1"])

    assert done.exit_code == 1
    assert "No service is known at memory://" in done.output
    assert "(no namespace)" in done.output


def test_a_trace_of_nothing_tells_what_another_namespace_knows_with_a_command_in_a_line(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = Cause("another namespace", "J1 is known there", ("choreo --namespace staging trace J1",))
    monkeypatch.setattr(Observer, "elsewhere", lambda *_: cause)
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)

    said = CliRunner().invoke(choreo, ["trace", "J1"]).output

    assert "J1 is known there.\n      choreo --namespace staging trace J1\n" in said


def test_the_namespaces_that_are_asked_who_hears_a_type_are_limited(stage, places, monkeypatch) -> None:
    described = stage.app.runtime.describe()
    for name in ("a", "b", "c"):
        places.add(name, MemoryStore())
        hearer = Program("w", "payment@host", digest=described.digest)
        places[name].report("payment", hearer, described.to_json(), 60)
    monkeypatch.setattr("choreo.observe.elsewhere.MOST_ASKED", 2)

    elsewhere = Elsewhere(places["newcomer"], "newcomer", places.__getitem__)

    assert elsewhere.hearers("order.placed") == {"a": ["payment"], "b": ["payment"]}
