"""An event is known by its source and its id. Two sources may use the same id for different events."""

from uuid import uuid4

import pytest

from choreo import Context, PermanentFailure, Several
from choreo.events.envelope import Envelope
from choreo.events.ids import identity, task_id
from choreo.testing import context as context_of
from tests.unit.events import OrderPlaced, OrderRejected, PaymentCharged, envelope
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice")
SOURCES = ["shop", "https://example.org/till#1"]


def placed(source: str, id: str = "7") -> Envelope:  # noqa: A002
    return envelope(ORDER, id=id, source=source)


def charging(fails: bool = False) -> tuple[Stage, list[str]]:
    app, keys = service("payment"), []

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced, context: Context) -> PaymentCharged:
        keys.append(context.idempotency_key)
        if fails and len(keys) <= 2:
            raise PermanentFailure("declined")
        return PaymentCharged()

    return Stage(app), keys


@pytest.mark.parametrize("event_id", ["7", "join:7", "letter:7", "notice:7"])
def test_events_of_two_sources_with_one_id_are_two_events(event_id):
    stage, keys = charging()

    for source in [*SOURCES, *SOURCES]:
        stage.deliver(placed(source, event_id))

    assert len(keys) == len(set(keys)) == 2
    assert len({event.id for event in stage.events}) == 2


def test_each_of_them_has_a_dead_letter_of_its_own_and_a_replay_runs_it():
    stage, keys = charging(fails=True)
    for source in SOURCES:
        stage.deliver(placed(source))
    first, second = stage.dead_letters
    assert first.unit != second.unit

    stage.app.dead_letters.replay(second.id)
    stage.pass_time(1)
    stage.deliver(placed(SOURCES[0]))

    assert keys[1:] == [keys[1], keys[1]]


def test_a_join_of_several_takes_one_of_each_source():
    app, joined = service("payment"), []

    @app.join(Several(OrderPlaced, 2))
    def ship(orders: list[OrderPlaced]) -> None:
        joined.append([order.meta.source for order in orders])

    stage = Stage(app)
    stage.deliver(placed(SOURCES[0]))
    stage.deliver(placed(SOURCES[0]))
    assert not joined
    stage.deliver(placed(SOURCES[1]))

    assert sorted(*joined) == sorted(SOURCES)


def test_each_run_is_a_task_of_its_own():
    assert len({task_id(placed(source).identity, "payment.charge") for source in SOURCES}) == 2


def test_the_identity_of_different_pairs_is_different():
    parts = ["a", "a#b", "b", "a%23b", "%", "#", "a%", "event:a"]
    pairs = [(source, event_id) for source in parts for event_id in parts]

    assert len({identity(*pair) for pair in pairs}) == len(pairs)


def test_the_identity_of_an_event_that_choreo_announced_is_its_id():
    """So units, idempotency keys and task ids are those that an earlier version has recorded."""
    event_id = str(uuid4())

    assert placed("shop", event_id).identity == event_id
    assert identity("shop", event_id.upper().replace("-", "A-")) != event_id


def test_a_test_context_has_the_key_that_the_handler_would_have():
    stage, keys = charging()
    event = placed(SOURCES[0])

    stage.deliver(event)

    assert context_of(handler="payment.charge", event=event).idempotency_key == keys[0]


def test_a_cancellation_of_each_source_counts():
    app, joined = service("payment"), []

    @app.join(OrderPlaced, PaymentCharged, unless=OrderRejected)
    def ship(order: OrderPlaced, charged: PaymentCharged) -> None:
        joined.append(order)

    stage = Stage(app)
    for source, subject in zip(SOURCES, ["ORD-1", "ORD-2"], strict=True):
        stage.deliver(envelope(OrderRejected(), id="7", source=source, subject=subject))
        stage.deliver(envelope(ORDER, id="8", source=source, subject=subject))
        stage.deliver(envelope(PaymentCharged(), id="9", source=source, subject=subject))

    assert not joined
