"""Which task has announced an event: Flower links a run to it."""

from choreo import Envelope
from choreo.broker.queue import run_headers
from choreo.events.lineage import Lineage
from tests.unit.events import OrderPlaced, PaymentCharged, envelope
from tests.unit.stage import Stage, service

ORDER = envelope(OrderPlaced(customer_id="alice"), subject="ORD-1", id="e-1")


def test_an_event_that_no_task_announces_begins_a_line():
    headers = service().publisher.message_for(ORDER).headers

    assert (headers["root_id"], headers["parent_id"]) == (None, None)


def test_a_task_is_the_parent_of_what_it_announces():
    app = service()

    @app.task
    def tidy() -> tuple[str, str]:
        headers = app.publisher.message_for(ORDER).headers
        return headers["root_id"], headers["parent_id"]

    @app.task
    def calls_it() -> tuple[str, str]:
        return tidy()  # type: ignore[no-any-return]

    assert tidy.apply(task_id="t-1").get() == ("t-1", "t-1")
    assert tidy.apply(task_id="t-2", root_id="t-0").get()[1] == "t-2"
    assert calls_it.apply(task_id="t-3").get() == ("t-3", "t-3"), "a function call is no task of its own"


def test_a_retry_keeps_the_parent():
    app = service()

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        raise OSError("down")

    Stage(app)
    lineage = Lineage("t-0", "t-1")
    delivery = app.tasks["payment.charge"].make_delivery(ORDER, 1, lineage=lineage)

    for message in (delivery.own_message(ORDER), delivery.own_message(ORDER, retries=2)):
        assert (message.headers["root_id"], message.headers["parent_id"]) == lineage
    other = delivery.own_message(envelope(OrderPlaced(customer_id="bob"), id="e-2"))
    assert other.headers["parent_id"] is None, "another event has another parent"


def test_a_replay_keeps_the_parent():
    app = service()

    @app.on("order.placed")
    def charge(order: Envelope) -> None:
        raise OSError("down")

    stage = Stage(app)
    delivery = app.tasks["payment.charge"].make_delivery(ORDER, 99, lineage=Lineage("t-0", "t-1"))
    try:
        delivery.live()
    except OSError:
        (letter,) = app.dead_letters
    app.dead_letters.replay(letter.id)

    ((_, waiting),) = stage.store.due("payment.charge", 10, 1.0)
    assert waiting is not None
    assert (waiting.headers["root_id"], waiting.headers["parent_id"]) == ("t-0", "t-1")


def test_a_run_without_a_parent_is_the_root():
    headers = run_headers("payment.charge", ORDER, 0)

    assert headers["root_id"] == headers["id"]
    assert headers["parent_id"] is None
